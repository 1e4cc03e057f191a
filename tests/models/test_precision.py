"""bfloat16 is taken where it was measured to be faster, once for a machine, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mixture_of_mamba as mom
from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.stepping import SteppingDecoder
from mixture_of_mamba.models import precision
from mixture_of_mamba.ops import native
from mixture_of_mamba.training.config import RunConfig, TrainConfig
from mixture_of_mamba.training.precision import resolve_precision


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOM_CACHE", str(tmp_path))
    monkeypatch.delenv("MIXTURE_OF_MAMBA_CACHE", raising=False)
    return tmp_path / "measured"


def measured(monkeypatch: pytest.MonkeyPatch, ratio: float) -> list[str]:
    """Every measurement gives this ratio; the list says which were made."""
    made: list[str] = []

    def measure(name: str) -> Callable[..., float]:
        def run(*args: object) -> float:
            made.append(name)
            return ratio

        return run

    monkeypatch.setattr(precision, "_training", measure("training"))
    monkeypatch.setattr(precision, "_decoding", measure("decoding"))
    return made


@pytest.mark.parametrize(("ratio", "taken"), [(0.5, "bf16"), (1.3, "float32"), (0.97, "float32")])
def test_training_takes_bfloat16_where_it_is_faster(
    ratio: float, taken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(monkeypatch, ratio)
    auto = RunConfig(train=TrainConfig(precision="auto", device="cpu"))
    assert resolve_precision(auto, None).train.precision == taken
    assert f"is {taken} (" in capsys.readouterr().err
    # what a folder has counts, whatever this machine is like; and nothing but auto is touched
    for held in ("bf16", "float32"):
        before = replace(auto, train=replace(auto.train, precision=held))
        assert resolve_precision(auto, before).train.precision == held
        assert resolve_precision(before, None) is before


def test_a_measurement_is_kept_by_machine_and_threads(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    made = measured(monkeypatch, 0.5)
    assert precision.kept()["training on cpu"] == "not measured yet"
    assert precision.training("cpu").ratio == precision.training("cpu").ratio == 0.5
    assert made == ["training"]
    assert precision.kept()["training on cpu"].startswith("bfloat16: bfloat16 takes 0.50")
    precision.decoding()
    assert made == ["training", "decoding"]
    precision.training("cpu", threads=3)
    assert made == ["training", "decoding", "training"] and torch.get_num_threads() == 1
    monkeypatch.setattr(native, "library_name", lambda: "another machine's")
    precision.training("cpu")
    assert made == ["training", "decoding", "training", "training"]
    assert len(json.loads((cache / "precision.json").read_text())) == 4


@pytest.mark.parametrize("damage", ["{", '{"a": "b"}', "mode"])
def test_what_cannot_be_read_or_trusted_is_measured_again(
    damage: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    made = measured(monkeypatch, 0.5)
    precision.training("cpu")
    if damage == "mode":
        (cache / "precision.json").chmod(0o666)
    else:
        (cache / "precision.json").write_text(damage)
    assert precision.training("cpu").ratio == 0.5
    assert made == ["training"] * 2


def test_a_real_measurement_is_a_ratio_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    before = torch.random.get_rng_state()
    assert 0.01 < precision.training("cpu").ratio < 100
    if native.why_not() is None:
        assert 0.01 < precision.decoding().ratio < 100
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.skipif(native.why_not() is not None, reason="native decoding")
@pytest.mark.parametrize(("ratio", "taken"), [(0.5, "bfloat16"), (1.3, "float32")])
def test_decoding_takes_bfloat16_where_it_is_faster(
    ratio: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, ratio)
    config = mom.ModelConfig(
        d_model=16, n_layers=1, modalities=[mom.Modality("text", "discrete", 20)]
    )
    decoder = decoder_maker(mom.MultimodalModel(config).eval(), "auto")()
    assert isinstance(decoder, SteppingDecoder)
    assert (decoder._step.backend, decoder._step.format) == ("cpu", taken)


def test_decoding_falls_back_where_native_calls_cannot_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = measured(monkeypatch, 0.5)
    config = mom.ModelConfig(
        d_model=16, n_layers=1, modalities=[mom.Modality("text", "discrete", 20)]
    )
    model = mom.MultimodalModel(config).double().eval()
    decoder = decoder_maker(model, "auto")()
    assert isinstance(decoder, SteppingDecoder) and decoder._step.backend == "torch"
    assert made == []


def test_several_processes_say_what_they_take() -> None:
    with pytest.raises(ValueError, match=r"measured by one process.*say float32 or bf16"):
        TrainConfig(precision="auto", devices=2)
