"""Progress lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from mixture_of_mamba.evaluation.progress import ComparisonProgress, progress_line
from mixture_of_mamba.training.progress_bar import clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (83.4, "1:23"), (3600, "1:00:00"), (3723, "1:02:03")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_line_of_a_run_in_progress(tmp_path: Path) -> None:
    assert progress_line(tmp_path, 100) == "starting"
    line = {
        "phase": "train",
        "step": 25,
        "tokens": 50_000,
        "flops": 1,
        "seconds": 20.0,
        "losses": {"text": 2.5, "speech": None},
    }
    before = "".join(json.dumps(line | {"step": i}) + "\n" for i in range(2000))
    after = json.dumps(line | {"phase": "validation"}) + '\n{"phase": "tr'
    (tmp_path / "metrics.jsonl").write_text(before + json.dumps(line) + "\n" + after)
    expected = "   25/100 ·  25% · text 2.500 · 2,500 tokens/s · 1:00 left"
    assert progress_line(tmp_path, 100) == expected


def test_a_log_gets_a_line_only_when_a_run_has_moved() -> None:
    stream = io.StringIO()
    progress = ComparisonProgress(every=0.0, stream=stream)
    for line in ("starting", "1/9", "1/9", "2/9"):
        progress.show([("dense-seed0", line)])
    progress.say("dense-seed0: done")
    assert stream.getvalue().splitlines() == [
        "dense-seed0  1/9",
        "dense-seed0  2/9",
        "dense-seed0: done",
    ]
