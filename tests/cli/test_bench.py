"""`mom bench` runs the repository's benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixture_of_mamba.cli import bench
from mixture_of_mamba.cli.main import main


def test_without_the_repository_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert main(["bench", "--device", "cpu"]) != 0
    assert "clone it" in capsys.readouterr().err


def test_command_names_the_device_and_the_file(tmp_path: Path) -> None:
    found = bench.command("cpu", tmp_path / "b.json", True)
    out = str(tmp_path / "b.json")
    assert found[1:] == ["-m", "benchmarks", "cpu", "--out", out, "--quick"]


def test_benchmark_writes_numbers_a_table_and_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(bench.ROOT))
    from benchmarks.__main__ import main as benchmark

    document = tmp_path / "performance.md"
    options = ["cpu", "--quick", "--only", "convolution", "training"]
    files = ["--out", str(tmp_path / "b.json"), "--doc", str(document)]
    assert benchmark([*options, *files]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["convolution"][0]["ms"]["cpu"]["median"] > 0
    assert "mixture over dense" in found["training"]
    assert "| convolution, forward" in capsys.readouterr().out
    once = document.read_text()
    assert benchmark([*options, *files]) == 0
    assert document.read_text().count("## CPU") == once.count("## CPU") == 1
