"""A comparison from the command line to the page, on real data, with tiny models."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.evaluation.curves import read_curves
from mixture_of_mamba.evaluation.plan import Job, read_plan
from mixture_of_mamba.evaluation.progress import ComparisonProgress
from mixture_of_mamba.evaluation.runner import RunFailed, run_jobs
from mixture_of_mamba.training.metrics import read_metrics

CONFIG = {
    "data": {
        "setting": "chameleon_speech",
        "scenes": 60,
        "validation_fraction": 0.2,
        "text_vocabulary": 300,
        "image_steps": 20,
        "image_codes": 32,
        "speech_units": 16,
        "window": 256,
    },
    "model": {"d_model": 16, "n_layers": 1},
    "train": {
        "steps": 40,
        "batch_size": 2,
        "warmup": 4,
        "log_every": 4,
        "evaluate_batches": 4,
        "tensorboard": False,
        "device": "cpu",
    },
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A finished comparison: its folder, the command's arguments, and what it printed."""
    base = tmp_path_factory.mktemp("study")
    CONFIG["data"]["cache"] = str(base / "cache")  # type: ignore[index]
    (base / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    out = base / "out"
    arguments = ["compare", "-c", str(base / "tiny.yaml"), "--seeds", "0", "--out", str(out)]
    arguments += ["--samples", "2", "--judged", "2", "--jobs", "2"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(arguments) == 0
    return out, arguments, printed.getvalue()


class Page(HTMLParser):
    """Text, sources and balance of a page."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_prints_a_table_and_the_path_of_the_page(study: tuple[Path, list[str], str]) -> None:
    out, _, printed = study
    assert re.search(r"^ +FLOPs to match +dense +mom +gain$", printed, re.MULTILINE)
    for modality in ("text", "image", "speech"):
        assert re.search(rf"^{modality} .* %$", printed, re.MULTILINE)
    assert f"report: {out / 'report.html'}" in printed
    for title in ("picture from caption", "caption from picture", "caption from voice"):
        assert f"{title}: right of all, 95 % interval" in printed
    assert re.search(r"^mom +0(?: +\d+/\d+ \(\d+\N{EN DASH}\d+ %\)){5}$", printed, re.MULTILINE)
    assert "not judged" not in printed


def test_the_page_holds_everything_itself(study: tuple[Path, list[str], str]) -> None:
    out, _, _ = study
    page = Page((out / "report.html").read_text())
    assert page.open == []
    # what is outside is neither fetched nor linked; drawings refer to their own parts
    assert all(s.startswith(("data:image/png;base64,", "data:audio/wav;base64,", "#"))
               for s in page.sources)  # fmt: skip
    pictures = [s for s in page.sources if s.startswith("data:image/png")]
    voices = [s for s in page.sources if s.startswith("data:audio/wav")]
    assert len(pictures) == 4 + 2 * 2  # real ones; two samples of dense and of mom
    assert 4 <= len(voices) <= 4 + 2 * 2  # an untrained model may say nothing
    for title in ("What it takes to match", "Loss over training FLOPs", "What it costs", "Samples",
                  "Is it right?", "How to read it", "Where it comes from"):  # fmt: skip
        assert title in page.text
    assert read_plan(out).command in page.text


def test_generated_pictures_stand_beside_the_real_ones(study: tuple[Path, list[str], str]) -> None:
    out, _, _ = study
    sheet = np.asarray(Image.open(out / "gallery.png"))
    real = np.asarray(Image.open(out / "examples" / "00.png")).repeat(3, 0).repeat(3, 1)
    made = np.asarray(Image.open(out / "mom-seed0" / "samples" / "00.png"))
    width, top = real.shape[1], 26
    for column, picture in ((0, real), (2, made.repeat(3, 0).repeat(3, 1))):
        left = 330 + column * (width + 8)
        assert np.array_equal(sheet[top : top + len(picture), left : left + width], picture)


def test_the_comparison_is_fair(study: tuple[Path, list[str], str]) -> None:
    """The same FLOPs, tokens and steps; and the first losses differ only by the further experts."""
    out, _, _ = study
    figures = json.loads((out / "comparison.json").read_text())
    dense, mom = (figures["variants"][v] for v in ("dense", "mom"))
    for key in ("flops_per_token", "flops", "tokens"):
        assert dense[key] == mom[key]
    plan = read_plan(out)
    lines = {job.variant: read_metrics(job.folder / "metrics.jsonl") for job in plan.jobs(out)}
    rates = {v: [line["learning_rate"] for line in by] for v, by in lines.items()}
    assert rates["dense"] == rates["mom"]
    first = {v: by[0]["loss"] for v, by in lines.items()}
    assert first["dense"] == pytest.approx(first["mom"], rel=0.02)


def test_runs_are_evaluated_often_enough(study: tuple[Path, list[str], str]) -> None:
    out, _, _ = study
    curves = read_curves(out / "mom-seed0")
    assert {len(curve.flops) for curve in curves.values()} == {40}


def test_the_same_command_again_trains_nothing(
    study: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, arguments, printed = study
    before = (out / "mom-seed0" / "metrics.jsonl").stat().st_mtime_ns
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "mom-seed0: finished before, kept" in said.err
    assert said.out == printed
    assert (out / "mom-seed0" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("flag", "value", "was"),
    [("steps", "41", "40"), ("evaluate_batches", "2", "4"), ("threads", "2", "1")],
)
def test_other_settings_are_refused_before_anything_is_trained(
    study: tuple[Path, list[str], str],
    capsys: pytest.CaptureFixture[str],
    flag: str,
    value: str,
    was: str,
) -> None:
    out, arguments, _ = study
    before = (out / "report.html").read_bytes()
    assert main([*arguments, f"--train.{flag}", value]) == 1
    assert f"train.{flag}: {was} -> {value}" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == before


def test_what_another_model_made_is_made_anew(
    study: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The dense run's samples and facts, copied beside the mixture's model."""
    out, arguments, printed = study
    names = ("facts.json", "samples/samples.json")
    before = [(out / "mom-seed0" / name).read_text() for name in names]
    for name in names:
        shutil.copy(out / "dense-seed0" / name, out / "mom-seed0" / name)
    shutil.copy(out / "dense-seed0/samples/SHA256SUMS", out / "mom-seed0/samples/SHA256SUMS")
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "mom-seed0: generating samples" in said.err and "mom-seed0: judging" in said.err
    assert "dense-seed0: generating" not in said.err
    assert said.out == printed
    assert [(out / "mom-seed0" / name).read_text() for name in names] == before


def test_report_rebuilds_the_page(
    study: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, printed = study
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    (out / "comparison.json").rename(out / "before.json")
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert (out / "report.html").read_text() == before
    assert (out / "comparison.json").read_text() == (out / "before.json").read_text()


def test_samples_are_files_that_can_be_opened(study: tuple[Path, list[str], str]) -> None:
    from PIL import Image

    out, _, _ = study
    real = json.loads((out / "examples" / "examples.json").read_text())
    made = json.loads((out / "mom-seed0" / "samples" / "samples.json").read_text())["samples"]
    assert [e["caption"] for e in made] == [e["caption"] for e in real[:2]]
    for folder, entry in ((out / "examples", real[0]), (out / "mom-seed0" / "samples", made[0])):
        assert np.asarray(Image.open(folder / entry["items"]["image"])).shape == (32, 32, 3)
    with wave.open(str(out / "examples" / real[0]["items"]["speech"])) as file:
        assert file.getnframes() > 0.2 * file.getframerate()


def test_a_failing_run_stops_the_others_and_says_why(
    study: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    out, _, _ = study
    config = read_plan(out).config.to_dict()
    jobs = []
    for name, changes in (("bad", {"learning_rate": 1e30}), ("good", {"steps": 100_000})):
        plain = config | {"train": config["train"] | {"warmup": 0} | changes}
        jobs.append(Job(name, 0, tmp_path / name, type(read_plan(out).config).from_dict(plain)))
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    with pytest.raises(RunFailed, match=r"run bad failed \(exit code 1\): mom train: .*step") as e:
        run_jobs(jobs, tmp_path, at_a_time=2, progress=ComparisonProgress(stream=io.StringIO()))
    assert str(tmp_path / "logs" / "bad.log") in str(e.value)
    said = (tmp_path / "logs" / "good.log").read_text()
    assert "stopped at step" in said and "with a checkpoint" in said


@pytest.mark.slow
def test_a_stopped_comparison_leaves_no_run_behind_and_goes_on(
    study: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    """SIGTERM in the middle; then the same command ends as if nothing had happened."""
    whole, arguments, _ = study
    out = tmp_path / "out"
    arguments = [str(out) if a == str(whole) else a for a in arguments]
    arguments += ["--train.checkpoint_every", "10", "--samples", "0", "--judged", "0"]
    command = [sys.executable, "-m", "mixture_of_mamba", *arguments]
    log = out / "mom-seed0" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (log.is_file() and '"step": 12' in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.read().endswith("mom compare: interrupted\n")
    assert process.returncode == 130
    stopped = log.stat().st_size
    assert main(arguments) == 0
    assert log.stat().st_size >= stopped
    for name in ("dense-seed0", "mom-seed0"):
        ours, theirs = (read_curves(folder / name)["text"] for folder in (out, whole))
        assert ours.losses.tolist() == theirs.losses.tolist()
        assert ours.flops.tolist() == theirs.flops.tolist()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["compare", "-c", "demo", "--out", out, "--variants", "dense", "mon"]) == 1
    assert "there is no variant 'mon'" in capsys.readouterr().err
    assert main(["report", out]) == 1
    assert "plan.json is missing" in capsys.readouterr().err
    assert main(["compare", "-c", "demo", "--out", out, "--jobs", "0"]) == 1
    assert "at least one run at a time" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
