"""Every writer of the library: a full disk and a read-only folder are said with path and remedy,
and what stood there before is intact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.data.cache import build_or_load
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.evaluation.plan import write_plan
from mixture_of_mamba.evaluation.samples import save_examples
from mixture_of_mamba.files import WriteError, verify
from mixture_of_mamba.interop import save_state_spaces, save_transformers, upcycle
from mixture_of_mamba.interop.tokenizer import copy_tokenizer
from mixture_of_mamba.modalities.image.files import IMAGE, write_image
from mixture_of_mamba.modalities.speech.files import write_sound
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.folder import publish_model, write_config
from mixture_of_mamba.training.lock import FolderLock
from mixture_of_mamba.training.loop import train
from mixture_of_mamba.training.metrics import MetricsLog
from mixture_of_mamba.training.tensorboard import TensorBoardLog
from tests.factories.data import tiny_bundle
from tests.factories.runs import make_plan
from tests.factories.training import build, tiny_config

from .helpers.disks import full_disk, read_only


def model() -> MultimodalModel:
    return MultimodalModel(
        ModelConfig(d_model=32, n_layers=1, modalities=[Modality("text", "discrete", 4000)])
    )


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def state(folder: Path) -> None:
    tokens = torch.zeros(500, 3, dtype=torch.int64)
    network = model().eval()
    with torch.no_grad():
        cache = network.advance(tokens, torch.zeros_like(tokens))[1]
    assert isinstance(cache, ModelState)
    cache.save(folder / "past.safetensors")


def tokenizer(folder: Path) -> None:
    source = folder.parent / "source"
    shutil.copytree(folder.parent / "tokenizers" / "text", source, dirs_exist_ok=True)
    (source / "text.json").replace(source / "tokenizer.json")
    copy_tokenizer(source, folder, size=3000, markers={"<image>": 3000})


def tokenizer_set(folder: Path) -> None:
    tiny_bundle("chameleon").tokenizers.save(folder / "tokenizers")


def cached(folder: Path) -> None:
    build_or_load(folder, "data", {"a": 1}, lambda part: tiny_bundle("chameleon").save(part))


def log(folder: Path) -> None:
    lines = MetricsLog(folder / "metrics.jsonl", up_to=0)
    try:
        for step in range(200):
            lines.write({"step": step, "text": "x" * 1000})
        lines.sync()
    finally:
        lines.close()


def long_config(folder: Path) -> None:
    weights = {f"modality{i}": 1.0 for i in range(10_000)}
    config = RunConfig()
    config.model.loss_weights.update(weights)
    try:
        write_config(folder, config)
    finally:
        config.model.loss_weights.clear()


def examples(folder: Path) -> None:
    save_examples(
        [Example({"text": "a caption", "image": noise(300, 300, 3)})] * 2,
        folder / "examples",
        {"image": IMAGE},
    )


def many_runs(folder: Path) -> None:
    write_plan(make_plan(seeds=range(60)), folder)


WRITERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a model": (lambda f: model().save_pretrained(f), ""),
    "state-spaces": (lambda f: save_state_spaces(model(), f), "pytorch_model.bin"),
    "transformers": (lambda f: save_transformers(model(), f), "model.safetensors"),
    "an upcycled model": (lambda f: upcycle(model(), ["text", "image:discrete:9"]).save(f), ""),
    "a saved state": (state, "past.safetensors"),
    "tokenizers": (tokenizer_set, "tokenizers"),
    "a tokenizer": (tokenizer, "tokenizer.json"),
    "prepared data": (cached, ""),
    "a log": (log, "metrics.jsonl"),
    "a config": (long_config, "config.yaml"),
    "a plan": (many_runs, ""),
    "examples": (examples, "examples"),
    "a picture": (lambda f: write_image(f / "a.png", noise(300, 300, 3)), "a.png"),
    "a sound": (lambda f: write_sound(f / "a.wav", (np.zeros(99_999), 16_000)), "a.wav"),
}


@pytest.fixture(autouse=True, scope="module")
def built() -> None:
    tiny_bundle("chameleon")  # before a disk is full


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_bundle("chameleon").tokenizers.save(tmp_path / "tokenizers")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_said_with_path_and_remedy(place: Path, name: str) -> None:
    write, file = WRITERS[name]
    with full_disk(place, kilobytes=16) as reason:
        with pytest.raises(WriteError) as error:
            write(place)
        left = {p.name for p in place.rglob("*") if not p.name.endswith(".lock")} - {"filling"}
    message = str(error.value)
    assert message.startswith(f"{place / file}") and f"could not be written ({reason}); " in message
    assert "make room there" in message or "ulimit -f" in message
    assert "choose another" in message
    allowed = {"metrics.jsonl", "configs"} | {p for p in left if p.endswith(".yaml")}
    assert left <= allowed, "nothing half done stays"


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_folder_is_said_with_path_and_remedy(place: Path, name: str) -> None:
    write, _ = WRITERS[name]
    with read_only(place), pytest.raises(WriteError) as error:
        write(place)
    message = str(error.value)
    assert str(place) in message and "could not be written (" in message
    assert "choose another" in message


def test_an_old_model_outlives_a_full_disk(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", kilobytes=1300):
        folder = tmp_path / "disk" / "model"
        old = model()
        old.save_pretrained(folder)
        with pytest.raises(WriteError):
            MultimodalModel(
                ModelConfig(d_model=64, n_layers=3, modalities=[Modality("t", "discrete", 9000)])
            ).save_pretrained(folder)
        assert verify(folder)
        again = MultimodalModel.from_pretrained(folder)
        assert torch.equal(again.embedding.weight, old.embedding.weight)


def test_a_run_on_a_full_or_a_read_only_disk(tmp_path: Path) -> None:
    with read_only(tmp_path / "ro"), pytest.raises(WriteError, match=r"with --out"):
        train(tiny_config(), tmp_path / "ro" / "run", build=build)
    with full_disk(tmp_path / "full", kilobytes=0), pytest.raises(WriteError) as error:
        train(tiny_config(), tmp_path / "full" / "run", build=build)
    assert str(tmp_path / "full" / "run") in str(error.value)


def test_publishing_on_a_full_disk_keeps_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(stop_after=2), run, build=build)
    (run / "model").mkdir()
    with pytest.MonkeyPatch.context() as patch:

        def full(*paths: Any) -> None:
            raise OSError(28, "No space left on device", str(paths[1]))

        patch.setattr("mixture_of_mamba.training.folder.shutil.copyfile", full)
        with pytest.raises(WriteError, match=r"run/model could not be written \(No space left"):
            publish_model(run)
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []
    publish_model(run)
    assert verify(run / "model")


def test_a_lock_on_a_read_only_disk(tmp_path: Path) -> None:
    with read_only(tmp_path / "ro"), pytest.raises(WriteError, match="choose another folder with"):
        FolderLock(tmp_path / "ro").acquire()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_that_do_not_fit_are_said(tmp_path: Path) -> None:
    line: dict[str, Any] = {"phase": "train", "loss": 1.0, "losses": {"text": 1.0}}
    line |= dict.fromkeys(("learning_rate", "gradient_norm", "tokens_per_second"), 1.0)
    with full_disk(tmp_path / "tensorboard", kilobytes=8) as reason:
        board = TensorBoardLog(tmp_path, step=0, enabled=True)
        with pytest.raises(WriteError) as error:
            for step in range(2000):
                board.write(line | {"step": step})
                board.writer.flush() if step % 100 == 99 else None
        assert f"tensorboard could not be written ({reason})" in str(error.value)
        board.close()
