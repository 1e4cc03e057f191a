"""One program: its overview, its help, and one line for everything that a user can get wrong."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors import SafetensorError

import mixture_of_mamba
from mixture_of_mamba.cli.errors import report
from mixture_of_mamba.cli.main import COMMANDS, main
from mixture_of_mamba.cli.parser import Parser

ROOT = Path(__file__).parents[2]


def fails(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 1) -> str:
    """The one line that the command fails with."""
    assert main(list(argv)) == code
    caught = capsys.readouterr()
    assert caught.out == ""
    assert len(caught.err.splitlines()) == 1, caught.err
    return caught.err


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in shown
    assert main([]) == 2


def test_both_ways_to_start_are_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"mom": "mixture_of_mamba.__main__:main"}
    done = subprocess.run(
        [sys.executable, "-m", "mixture_of_mamba", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"mom {mixture_of_mamba.__version__}\n"


def test_overview_imports_no_command() -> None:
    code = (
        "import sys; from mixture_of_mamba.cli.main import main; main(['--help']);"
        "sys.exit(str({'torch', 'lightning', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option(name: str) -> None:
    assert find_spec(f"mixture_of_mamba.cli.{name}"), (
        "the overview names a command without a module"
    )
    module = import_module(f"mixture_of_mamba.cli.{name}")
    parser = Parser(prog=f"mom {name}")
    module.configure(parser)
    parser.format_help()  # adds the fields
    silent = [a.dest for a in parser._actions if not a.help]
    assert not silent
    fields = [a for a in parser._actions if a.dest.partition(".")[2]]
    assert all(len(a.help or "") > 15 for a in fields), "a field is not explained"
    assert len(module.HELP) > 30


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean train?" in fails(capsys, "trian", code=2)
    assert "choose from demo, train" in fails(capsys, "xyz", code=2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.stepz", "3"], "there is no option --train.stepz (did you mean --train.steps?)"),
        (["--steps=3"], "there is no option --steps (did you mean --train.steps?)"),
        (["--train.steps", "x"], "train.steps is 'x', which is no whole number"),
        (["-c", "transfusion", "--data.patch", "x"], "image.patch is 'x', which is no whole num"),
        (["--train.threads=2.5"], "train.threads is '2.5', which is no whole number"),
        (["--train.steps", "0"], "train.steps is 0; it must be at least 1"),
        (["--data.setting", "speech"], "setting is 'speech'; choose from chameleon"),
        (["--model.split", "in_prj"], "split has unknown projections ['in_prj']"),
        (["-c", "chamelon"], "there is no config 'chamelon' (did you mean chameleon?)"),
        (["-c", "configs/none.yaml"], "give a YAML file or a preset: chameleon, "),
    ],
)
def test_wrong_options_of_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in fails(capsys, "train", "--out", str(tmp_path / "run"), *argv)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "r", "--weights", "fp8"], "--weights is 'fp8'; choose from "),
        (["tokenizer", "foo"], "action is 'foo'; choose from train, inspect"),
        (["bench", "--device", "tpu"], "--device is 'tpu'; choose from cpu, cuda"),
        (["upcycle", "d", "--out", "o", "--format", "x"], "--format is 'x'; choose from "),
        (["generate", "r", "--temperature", "hot"], "--temperature is 'hot', which is no number"),
        (["generate", "r", "--top_k", "1.5"], "--top_k is '1.5', which is no whole number"),
        (["compare", "--out", "o", "--seeds", "a"], "--seeds is 'a', which is no whole number"),
        (["train", "--out", "o", "--model.diffusion", "x"], "is 'x', which is no mapping"),
        (["generate", "r", "--weights"], "--weights needs a value"),
        (["compare", "--out", "o", "--variants"], "--variants needs a value"),
        (["report"], "missing FOLDER; see --help"),
        (["generate"], "missing RUN; see --help"),
        (["env", "more"], "there is no place for more; see --help"),
    ],
)
def test_wrong_values_of_every_kind_say_what_is_valid(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    line = fails(capsys, *argv)
    assert message in line
    assert not any(raw in line for raw in ("Parser key", "typing.", "<class", "NoneType"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_with_choices_names_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(prog=f"mom {name}")
    import_module(f"mixture_of_mamba.cli.{name}").configure(parser)
    for action in parser._actions:
        if action.choices and action.option_strings:
            line = fails(capsys, name, f"{action.option_strings[-1]}=foo")
            assert f"is 'foo'; choose from {', '.join(map(str, action.choices))}" in line


def test_out_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing --out; see --help" in fails(capsys, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {stepz: 3}", "unknown field 'train.stepz' (did you mean train.steps?)"),
        ("trane: {steps: 3}", "unknown field 'trane.steps' (did you mean train.steps?)"),
        ("train: {steps: many}", "train.steps"),
        ("- 3", "holds no mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_wrong_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    out = str(tmp_path / "run")
    assert message in fails(capsys, "train", "-c", str(tmp_path / "c.yaml"), "--out", out)


def test_unexpected_errors_are_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report(KeyError("blocks"), "mom train") == 1
    line = capsys.readouterr().err
    assert line == "mom train: unexpected KeyError: blocks; MOM_TRACEBACK=1 shows where\n"
    assert report(ValueError("two\n  lines"), "mom train") == 1
    assert capsys.readouterr().err == "mom train: two lines\n"
    full = SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
    for error in (full, OSError(28, "No space left on device", "/disk/log")):
        assert report(error, "mom train") == 1
        line = capsys.readouterr().err
        assert "No space left on device; make room there" in line and "unexpected" not in line
    assert "/disk/log: No space" in line
    assert report(PermissionError(13, "Permission denied", "/your/document"), "mom train") == 1
    assert "write" not in capsys.readouterr().err, "it was read"
    assert report(KeyboardInterrupt(), "mom train") == 130
    monkeypatch.setenv("MOM_TRACEBACK", "1")
    try:
        raise ValueError("here")
    except ValueError as error:
        report(error, "mom train")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("report", "mom report FOLDER [options]"),
        ("generate", "mom generate RUN [options]"),
        ("tokenizer", "mom tokenizer ACTION [FOLDER] [FILES ...] [options]"),
        ("compare", "mom compare [options]"),
    ],
)
def test_usage_names_what_has_no_flag(
    capsys: pytest.CaptureFixture[str], command: str, usage: str
) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: {usage}\n")
