"""`mom train` end to end on a few real documents: run, stop, resume, read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.modalities.image.files import write_image
from mixture_of_mamba.training.config import TrainConfig
from mixture_of_mamba.training.runs import load_run, read_config

SMALL = [
    *("-c", "transfusion", "--data.scenes", "40", "--data.text_vocabulary", "270"),
    *(
        "--data.patch",
        "4",
        "--data.window",
        "128",
        "--model.d_model",
        "16",
        "--model.n_layers",
        "1",
    ),
    *("--train.batch_size", "2", "--train.steps", "4", "--train.log_every", "1"),
    *("--train.evaluate_batches", "1", "--train.evaluate_every", "2", "--train.threads", "1"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--data.cache", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: list[str]) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert main(["train", *SMALL, *cache, "--out", str(out)]) == 0
    return out


def losses(folder: Path) -> list[Any]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [[x["phase"], x["step"], x["loss"], x["losses"]] for x in map(json.loads, lines)]


def test_run_folder_is_whole_and_reads_back(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("config.yaml", "data.json", "metrics.jsonl"),
        *("checkpoints", "model", "tokenizers", "tensorboard"),
    }
    run = load_run(finished)
    assert run.config.train.steps == 4 and not run.model.training
    assert [m.name for m in run.model.config.modalities] == ["text", "image"]
    assert [(n, s) for n, _, s in run.tokenizers.modalities] == [("text", 270), ("image", 48)]
    assert losses(finished)[-1][:2] == ["validation", 4]


def test_samples_are_in_tensorboard(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"image/0", "image/1"} <= set(tags["images"])
    assert events.Images("image/0")[-1].step == 4
    assert "image/0/text_summary" in tags["tensors"]


def test_stopped_run_resumes_from_its_own_config(
    tmp_path: Path, finished: Path, cache: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b"
    assert main(["train", *SMALL, *cache, "--out", str(out), "--train.stop_after", "3"]) == 0
    assert f"continue with: mom train --out {out} --resume" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert losses(out) == losses(finished), "noise and captions are drawn as without the stop"
    one, other = (load_run(folder).model.state_dict() for folder in (out, finished))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_taken_folder_is_refused(
    finished: Path, cache: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert main(["train", *SMALL, *cache, "--out", str(finished)]) == 1
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert "already holds a run (finished); continue it with --resume" in line
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_says_that_it_may_grow(
    finished: Path, cache: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert main(["train", "--out", str(out), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "was finished at step 4 before" in said and "a larger --train.steps" in said
    assert main(["train", *SMALL, *cache, "--out", str(out)]) == 1
    assert "continue it with --resume and a larger --train.steps" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--resume", "--train.steps", "5"]) == 0
    assert "is finished at step 5" in capsys.readouterr().err
    assert losses(out)[-1][1] == 5


def test_a_warmup_beyond_the_end_is_said(
    tmp_path: Path, cache: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SMALL, *cache, "--out", str(tmp_path / "run"), "--train.stop_after", "1"]
    assert main(["train", *options, "--train.warmup", "50"]) == 0
    said = capsys.readouterr().err
    assert "train.warmup is 50 and train.steps 4: the learning rate rises to the end" in said
    assert "8% of train.learning_rate" in said
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    peak = read_config(tmp_path / "run").train.learning_rate
    assert 4 * line["learning_rate"] == pytest.approx(0.08 * peak)
    assert TrainConfig(steps=4, warmup=3).remarks() == []


def test_a_resume_with_changed_documents_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, it fitted new tokenizers and trained on, with ids that mean other things."""

    def write(text: str) -> None:
        rows = [[{"text": f"{text} {i} " * 20}, {"image": str(picture)}] for i in range(10)]
        (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    picture, out = tmp_path / "a.png", tmp_path / "run"
    write_image(picture, np.full((32, 32, 3), 80, np.uint8))
    write("a red three at the top left")
    options = ["--data.setting", "transfusion", "--data.source", str(tmp_path / "mine.jsonl")]
    options += ["--data.cache", str(tmp_path / "cache"), "--data.patch", "4"]
    options += ["--data.text_vocabulary", "270", "--model.d_model", "16", "--model.n_layers", "1"]
    options += ["--train.batch_size", "1", "--train.steps", "4", "--train.warmup", "0"]
    options += ["--train.samples", "0", "--train.tensorboard", "false", "--train.device", "cpu"]
    assert main(["train", *options, "--out", str(out), "--train.stop_after", "2"]) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    write("four blue sevens below")
    assert main(["train", "--out", str(out), "--resume", "--train.steps", "6"]) == 1
    said = capsys.readouterr().err
    assert f"{out} was trained on other data: train windows, validation windows, text tok" in said
    assert "changed (it is made from another documents)" in said
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    write("a red three at the top left")
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert read_config(out).train.steps == 4 and losses(out)[-1][1] == 4
