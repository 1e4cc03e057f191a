"""Two results are compared by the ratios within each, and what cannot be is said in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import main
from benchmarks.compare import Ratio

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
OLD: dict[str, Any] = {
    "machine": {"cpu": "a CPU", "threads": 2, "torch": "2.0"},
    "scan": [
        {"what": "forward", "size": [8, 512, 256], "ms": {"cpu": {"median": 2.0}},
         "times faster than": {"torch": 10.0, "cpu": 1.0}},
    ],
    "block": [
        {"size": [8, 512, 128],
         "ms": {"dense": {"median": 9.0, "low": 8.0, "high": 10.0, "rounds": 3}},
         "over dense": {"2 modalities": {"median": 1.02, "low": 1.01, "high": 1.03, "pairs": 9}},
         "limit ms": 5.0, "limit over achieved": 0.5},
    ],
    "memory": {"MiB": {"cpu": 7}, "mamba.py over ours": 28},
}  # fmt: skip


def write(folder: Path, **results: Any) -> list[str]:
    paths = []
    for name, found in results.items():
        paths.append(str(folder / f"{name}.json"))
        Path(paths[-1]).write_text(found if isinstance(found, str) else json.dumps(found))
    return paths


def test_ratios_are_compared_and_times_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = copy.deepcopy(OLD)
    new["machine"]["cpu"] = "another CPU"
    new["scan"][0]["ms"]["cpu"]["median"] = 200.0
    new["scan"][0]["times faster than"]["torch"] = 12.0
    new["block"][0]["over dense"]["2 modalities"] = {
        "median": 1.0, "low": 0.99, "high": 1.005, "pairs": 9
    }  # fmt: skip
    del new["memory"]
    new["growth"] = {"longest over 1,024": {"median": 1.0, "low": 0.9, "high": 1.1, "pairs": 9}}
    assert main(["compare", *write(tmp_path, old=OLD, new=new)]) == 0
    said = capsys.readouterr().out
    assert "old: cpu a CPU, threads 2, torch 2.0\nnew: cpu another CPU" in said
    rows = [line for line in said.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        "| scan forward 8 x 512 x 256, times faster than, torch | 10 | 12 | +20.0% |  |",
        "| block 8 x 512 x 128, over dense, 2 modalities | 1.02 (1.01..1.03) | 1 (0.99..1.005) "
        "| -2.0% | apart |",
        "| block 8 x 512 x 128, limit over achieved | 0.5 | 0.5 | +0.0% |  |",
    ]
    assert "Only in the old file: 1 (memory, mamba.py over ours)" in said
    assert "Only in the new file: 1 (growth, longest over 1,024)" in said


def test_intervals_that_meet_overlap() -> None:
    one, two, three = Ratio(1, 0.9, 1.1), Ratio(1.2, 1.1, 1.3), Ratio(1.2)
    assert one.apart(two) == two.apart(one) == "overlap"
    assert one.apart(three) == three.apart(one) == ""


@pytest.mark.parametrize("name", ["cpu", "decode"])
def test_the_committed_results_have_ratios(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(RESULTS / f"{name}.json")
    assert main(["compare", path, path]) == 0
    said = capsys.readouterr().out
    assert said.count("| +0.0% |") >= 20
    assert "Only in" not in said
    assert not any(unit in said for unit in (" ms |", "seconds", "GB/s"))


def test_a_gpu_has_those_of_its_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(mixture: float) -> dict[str, Any]:
        parts = {
            variant: {"scale": "transfusion-1.4b", "variant": variant, "length": 4096,
                      "tokens": 8192, "time": {"median": time}}
            for variant, time in (("dense", 400.0), ("mixture", mixture))
        }  # fmt: skip
        return {"parts": parts, "failed": {}, "left_out": {}}

    assert main(["compare", *write(tmp_path, old=run(420.0), new=run(404.0))]) == 0
    row = "| mixture / our dense step, L 4096, 8192 tokens | 1.05 | 1.01 | -3.8% |  |"
    assert row in capsys.readouterr().out


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("{", "new.json is no JSON file: "),
        ([1], "new.json is no file of results: a list, not an object"),
        ({"lengths": {"256": {"median": 1.0}}}, "new.json has no ratios; give what"),
        ({"parts": [1]}, "new.json is no file of results that is known here: "),
        ({"prefill": {"times faster": 2.0}}, "have no ratio in common; give two results of"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    new: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *write(tmp_path, old=OLD, new=new)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1 and not said.out


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *write(tmp_path, old=OLD), str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert said.endswith("none.json cannot be read: No such file or directory\n")
