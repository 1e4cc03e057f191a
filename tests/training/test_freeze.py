"""What `mom upcycle --freeze` or model.freeze names stays as it was, to the bit, resumed too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.evaluation.plan import Plan, check_runs
from mixture_of_mamba.interop import Upcycled, upcycle
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.loop import train
from mixture_of_mamba.training.runs import read_config
from tests.factories import training
from tests.factories.training import SIZES, build, tiny_config

#: Tokens of the dense model: text without the begin tokens of the two further modalities.
KEPT = SIZES["text"] - 2


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """What `mom upcycle --freeze text shared` writes."""
    text = Modality("text", "discrete", KEPT)
    dense = MultimodalModel(ModelConfig(d_model=16, n_layers=2, modalities=[text]), seed=3)
    wanted = ["text", *(f"{name}:discrete:{SIZES[name]}" for name in ("image", "speech"))]
    replaced: Upcycled = replace(upcycle(dense, wanted), frozen=("text", "shared"))
    replaced.save(tmp_path / "mixture")
    return tmp_path / "mixture"


def config_of(start: Path | None, freeze: list[str] | None = None, **train: object) -> RunConfig:
    config = tiny_config(learning_rate=1e-2, weight_decay=0.1, **train)
    model = replace(config.model, init_from=None if start is None else str(start), freeze=freeze)
    return replace(config, model=model)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def rows_that_moved(start: Path, run: Path) -> dict[str, list[int]]:
    """Name of each parameter -> the rows of its first axis that training changed."""
    before, after = tensors(start), tensors(run / "model")
    assert before.keys() == after.keys()
    return {
        name: [i for i, row in enumerate(before[name]) if not torch.equal(row, after[name][i])]
        for name in before
    }


def assert_only_image_and_speech_moved(start: Path, run: Path) -> None:
    vocabulary = list(range(KEPT, sum(SIZES.values())))
    for name, rows in rows_that_moved(start, run).items():
        if name in ("embedding.weight", "head.weight"):
            assert set(rows) <= set(vocabulary) and len(rows) > len(vocabulary) // 2, name
        elif "_proj." in name:
            assert rows == [1, 2], name  # experts: text is 0
        else:
            assert rows == [], name  # norms, convolutions, A and D


def test_a_run_keeps_what_its_start_was_upcycled_to_keep(
    mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(config_of(mixture), run, build=build)
    assert_only_image_and_speech_moved(mixture, run)
    assert f"frozen: text:{KEPT}, shared (" in capsys.readouterr().err
    assert read_config(run).model.freeze == [f"text:{KEPT}", "shared"]


def test_a_resumed_run_keeps_it_too_without_its_start(mixture: Path, tmp_path: Path) -> None:
    config = config_of(mixture, gradient_accumulation_steps=2)
    train(config, tmp_path / "whole", build=build)
    shutil.copytree(mixture, tmp_path / "kept")
    train(replace(config, train=replace(config.train, stop_after=3)), tmp_path / "run", build=build)
    shutil.rmtree(mixture)
    assert train(config, tmp_path / "run", build=build, resume=True).finished
    assert_only_image_and_speech_moved(tmp_path / "kept", tmp_path / "run")
    whole, run = (tensors(tmp_path / name / "model") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], run[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_keep_it_too(mixture: Path, tmp_path: Path) -> None:
    tiny, run = Path(training.__file__), tmp_path / "run"
    options = {"devices": 2, "strategy": "ddp", "weight_decay": 0.1, "learning_rate": 1e-2}
    given = json.dumps({**options, "model": {"init_from": str(mixture)}})
    command = [sys.executable, "-W", "ignore", str(tiny), str(run), given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("frozen: text:") == 1
    assert_only_image_and_speech_moved(mixture, run)


def test_another_freeze_than_the_starts_is_refused(mixture: Path, tmp_path: Path) -> None:
    for other in ([], ["shared"], ["text", "image", "shared"]):
        with pytest.raises(
            ValueError, match=r"was upcycled with --freeze text shared; leave model"
        ):
            train(config_of(mixture, other), tmp_path / "run", build=build)
    assert not (tmp_path / "run").exists()
    same = config_of(mixture, ["shared", "text"], steps=1)
    assert train(same, tmp_path / "run", build=build).finished


@pytest.mark.parametrize("freeze", [["image"], ["text", "shared"]])
def test_a_resumed_run_is_asked_for_the_same_parts(
    freeze: list[str], mixture: Path, tmp_path: Path
) -> None:
    if freeze == ["image"]:
        (mixture / "upcycle.json").unlink()
    run = tmp_path / "run"
    train(config_of(mixture, freeze, stop_after=3), run, build=build)
    recorded = read_config(run).model.freeze
    assert recorded is not None and recorded != freeze  # it has the numbers of tokens
    for other in ([], ["speech"], [*freeze, "speech"], [f"{freeze[0]}:1", *freeze[1:]]):
        with pytest.raises(ValueError, match=r"of another config: model\.freeze: "):
            train(config_of(mixture, other), run, build=build, resume=True)
    assert train(config_of(mixture, freeze), run, build=build, resume=True).finished
    assert read_config(run).model.freeze == recorded


def test_a_comparison_takes_runs_that_froze_what_it_asks_for(mixture: Path, tmp_path: Path) -> None:
    (mixture / "upcycle.json").unlink()
    for asked, other in ((["image"], ["speech"]), (None, [])):
        config = config_of(mixture, asked, steps=1)
        plan = Plan(
            config=config, variants=("dense", "mom"), baseline="dense", seeds=(0,), command=""
        )
        out = tmp_path / f"freeze {asked}"
        jobs = [job for job in plan.jobs(out) if job.variant == "mom"]
        for job in jobs:
            train(job.config, job.folder, build=build)
        check_runs(plan, jobs)
        asked_else = replace(plan, config=config_of(mixture, other, steps=1))
        changed = [job for job in asked_else.jobs(out) if job.variant == "mom"]
        with pytest.raises(ValueError, match=r"of another configuration \(model\.freeze: "):
            check_runs(asked_else, changed)


def test_a_run_may_freeze_by_itself(mixture: Path, tmp_path: Path) -> None:
    (mixture / "upcycle.json").unlink()
    train(config_of(mixture, ["image"]), tmp_path / "run", build=build)
    low = SIZES["text"]
    for name, rows in rows_that_moved(mixture, tmp_path / "run").items():
        if name in ("embedding.weight", "head.weight"):
            assert rows and not set(rows) & set(range(low, low + SIZES["image"])), name
        elif "_proj." in name:
            assert rows == [0, 2], name
        else:
            assert rows, name
    assert read_config(tmp_path / "run").model.freeze == [f"image:{SIZES['image']}"]


def test_without_a_freeze_everything_moves(mixture: Path, tmp_path: Path) -> None:
    (mixture / "upcycle.json").unlink()
    train(config_of(mixture), tmp_path / "run", build=build)
    assert all(rows_that_moved(mixture, tmp_path / "run").values())
    assert read_config(tmp_path / "run").model.freeze is None


def test_what_cannot_be_frozen_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"names 'sound'; this run has text, image, speech, shared"
    ):
        train(config_of(None, ["sound"]), tmp_path / "run", build=build)
    divided = config_of(None, ["text"], devices=2, strategy="fsdp")
    with pytest.raises(ValueError, match=r"give --train\.strategy ddp"):
        train(divided, tmp_path / "run", build=build)
    assert list(tmp_path.iterdir()) == []
