"""Presets by name, flags over files, and where a resumed run finds its config."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from mixture_of_mamba.cli import options
from mixture_of_mamba.cli.demo import demo_config
from mixture_of_mamba.cli.options import (
    Parser,
    add_run_options,
    preset_names,
    preset_path,
    run_config,
)
from mixture_of_mamba.modalities import registry
from mixture_of_mamba.training.config import RunConfig

ROOT = Path(__file__).parents[2]


def parse(*argv: str) -> RunConfig:
    parser = Parser(prog="mom")
    parser.add_argument("--out", type=str)
    parser.add_argument("--resume", action="store_true")
    add_run_options(parser)
    return run_config(parser.parse_args(list(argv)))


def test_shipped_configs() -> None:
    assert {"chameleon", "chameleon_speech", "demo", "transfusion"} <= set(preset_names())
    for name in preset_names():
        assert (ROOT / "configs" / f"{name}.yaml").read_text() == preset_path(name).read_text()
        config = parse("-c", name)
        assert config == RunConfig.from_dict(yaml.safe_load(preset_path(name).read_text()))
    for name in ("chameleon", "chameleon_speech", "transfusion"):
        assert parse("-c", name).setting == name


@pytest.mark.parametrize("name", ["chameleon", "chameleon.yaml", "configs/chameleon.yaml"])
def test_presets_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("-c", name).setting == "chameleon"


def test_a_file_here_comes_before_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "chameleon.yaml").write_text("train: {steps: 17}")
    assert parse("-c", "configs/chameleon.yaml").train.steps == 17


@pytest.mark.parametrize("order", [0, 1])
def test_flags_override_the_file_wherever_it_stands(order: int) -> None:
    parts = [["-c", "chameleon"], ["--train.steps", "3", "--model.split=none"]]
    config = parse(*parts[order], *parts[1 - order])
    assert (config.train.steps, config.model.split) == (3, "none")
    assert config.setting == "chameleon"


def test_later_files_override_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("train: {steps: 9}")
    config = parse("--config=chameleon", "-c", str(tmp_path / "short.yaml"))
    assert (config.train.steps, config.setting) == (9, "chameleon")


def test_modalities_of_a_wrong_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("modalities: [text, image]")
    with pytest.raises(ValueError, match=r"modalities is \['text', 'image'\]; give a codec and"):
        parse("-c", str(tmp_path / "list.yaml"))
    with pytest.raises(ValueError, match=r"modalities\.image is 'vq'; give its codec and options"):
        parse("--modalities.image", "vq")
    with pytest.raises(ValueError, match=r"modalities\.image\.codec is \{'vq': '1'\}; give the"):
        parse("--modalities.image.codec.vq", "1")


def test_entries_of_mappings_can_be_set() -> None:
    config = parse("--model.loss_weights.image", "2", "--model.diffusion", "{timesteps: 10}")
    assert config.model.loss_weights == {"image": 2.0}
    assert config.model.diffusion.timesteps == 10


def test_a_package_whose_codec_cannot_be_loaded_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("theirs", "no_such_package:Codec", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"theirs": point})
    assert parse("-c", "chameleon").setting == "chameleon"
    parser = Parser(prog="mom")
    add_run_options(parser)
    shown = " ".join(parser.format_help().split())
    assert "theirs cannot be loaded: No module named 'no_such_package'" in shown
    assert "--modalities.NAME.codes VALUE vq: Entries of the codebook." in shown
    assert shown == " ".join(parser.format_help().split())
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        parse("--modalities.image.codec", "theirs")


def test_sources_are_read_and_codecs_loaded_for_the_help_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*args: object) -> None:
        raise AssertionError("asked for without --help")

    monkeypatch.setattr(options, "_codec_options", refused)
    monkeypatch.setattr(options, "_docstrings", refused)
    assert parse("-c", "chameleon", "--train.steps", "3").train.steps == 3
    parser = Parser(prog="mom")
    add_run_options(parser)
    with pytest.raises(AssertionError, match="without --help"):
        parser.format_help()


def test_configs_are_utf_8_whatever_the_system_writes(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes("data: {source: Bäume}".encode())
    code = (
        "import sys; from mixture_of_mamba.cli.options import *; p = Parser(); "
        "add_run_options(p, ('modalities', 'data')); run_config(p.parse_args(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "-c", str(tmp_path / "c.yaml")]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.stderr == b"", done.stderr


def test_resume_without_a_config_takes_the_runs_own(tmp_path: Path) -> None:
    text = yaml.safe_dump(parse("-c", "transfusion", "--train.steps=77").to_dict(), sort_keys=False)
    (tmp_path / "config.yaml").write_text(text)
    for flags in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        config = parse("--resume", *flags, "--train.log_every", "3")
        assert (config.train.steps, config.train.log_every) == (77, 3)
        assert config.setting == "transfusion"
    assert parse(*flags).train.steps == 1500, "without --resume it starts from the defaults"
    assert parse("--resume", *flags, "-c", "chameleon").setting == "chameleon"


def test_demo_says_when_its_schedule_is_shorter() -> None:
    whole, remark = demo_config(None, None)
    assert remark == "" and whole == RunConfig.from_dict(
        yaml.safe_load(preset_path("demo").read_text())
    )
    short, remark = demo_config(None, "no C++ compiler found")
    assert short.train.steps < whole.train.steps
    assert f"{short.train.steps} of {whole.train.steps} steps" in remark
    assert "no C++ compiler found" in remark
    asked, remark = demo_config(50, None)
    assert asked.train.steps == 50 and asked.train.warmup == 5 and "50 of" in remark
    assert replace(asked, train=whole.train) == whole, "nothing but the schedule changes"


def test_demo_compares_both_variants_alike_and_names_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mixture_of_mamba.cli import demo
    from mixture_of_mamba.cli.main import main

    plans = []

    def study(plan, out, **options):  # type: ignore[no-untyped-def]
        plans.append((plan, out, options))
        return {}, out / "report.html"

    monkeypatch.setattr("mixture_of_mamba.evaluation.experiment.run_experiment", study)
    monkeypatch.setattr(demo, "print_figures", lambda figures, page: print(f"report: {page}"))
    assert main(["demo", "--out", str(tmp_path), "--steps", "40"]) == 0
    ((plan, out, options),) = plans
    assert (plan.variants, plan.baseline, plan.seeds) == (("dense", "mom"), "dense", (0, 1))
    assert out == tmp_path and options["jobs"] == 2
    dense, mom = (job.config for job in list(plan.jobs(out))[:2])
    assert dense.differences(mom) == ["model.split: 'none' -> 'all'"]
    shown = capsys.readouterr()
    assert f"report: {tmp_path / 'report.html'}" in shown.out
    assert "a shorter schedule: 40 of" in shown.out and "a shorter schedule" in shown.err
