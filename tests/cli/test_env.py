"""`mom env` tells what is active, and why what is not."""

from __future__ import annotations

import json

import pytest
import torch

from mixture_of_mamba.cli.environment import environment
from mixture_of_mamba.cli.main import main
from mixture_of_mamba.ops import dispatch, native


def test_json_names_every_backend_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["threads"]["torch"] == torch.get_num_threads()
    ops = facts["backends"]["cpu"]
    assert set(ops) == {"selective_scan", "causal_conv1d", "modality_linear"}
    for op, found in ops.items():
        assert {found["active"], *found["others"]} == set(dispatch.backends(op))
        assert all(len(why) > 10 for why in found["others"].values())
    expected = "cpu" if native.why_not() is None else "torch"
    assert ops["selective_scan"]["active"] == expected
    assert facts["fused_block_on_cpu"] == (
        "yes" if expected == "cpu" else "no: " + native.describe()
    )
    assert "CPU" in ops["selective_scan"]["others"]["triton"]


def test_text_shows_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    for part in ("packages", "threads", "backends on cpu", "not triton: ", "caches", "compiler"):
        assert part in shown


def test_missing_kernels_show_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_loaded", lambda: (None, "no C++ compiler found"))
    facts = environment()
    scan = facts["backends"]["cpu"]["selective_scan"]
    assert scan["active"] == "torch" and scan["others"]["cpu"] == "no C++ compiler found"
    assert facts["fused_block_on_cpu"] == "no: no C++ compiler found"
    assert facts["kernels"]["cpu"] == "not available: no C++ compiler found"
