"""The short ways of a single step, in torch and natively, against the model itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mixture_of_mamba import ModelConfig, MultimodalModel
from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.decoders import CachedDecoder, RecomputingDecoder
from mixture_of_mamba.generation.stepping import (
    SteppingDecoder,
    model_step,
    why_not_native,
)
from mixture_of_mamba.ops import native
from tests.factories.models import make_model, random_sequence

# Largest difference of logits relative to the largest logit, after 12 steps.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
INT8 = 0.05  # of 8 bits with one scale a row, on these random weights

needs_native = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))


def in_torch(model: MultimodalModel) -> SteppingDecoder:
    return SteppingDecoder(model, model_step(model, backend="torch"))


def natively(model: MultimodalModel) -> SteppingDecoder:
    return SteppingDecoder(model, model_step(model, backend="cpu"))


BOTH = [in_torch, pytest.param(natively, marks=needs_native)]
Kind = Callable[[MultimodalModel], CachedDecoder]


def drift(plain: CachedDecoder, short: CachedDecoder, *, mixed: bool) -> float:
    """Largest relative difference of logits over 12 steps; sequences come and go on the way."""
    prompts = [random_sequence(n, seed=n) for n in (3, 9, 5, 1)]
    assert torch.equal(plain.start(prompts), short.start(prompts))
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for step in range(12):
        modality = torch.randint(3, (4,), generator=generator)
        if not mixed:
            modality[:] = step % 3
        tokens = torch.randint(11, (4,), generator=generator)
        wanted, got = plain.step(tokens, modality).float(), short.step(tokens, modality).float()
        worst = max(worst, float((wanted - got).abs().max() / wanted.abs().max()))
        if step == 6:
            for decoder in (plain, short):
                decoder.keep([0, 2, 3])
                decoder.step(tokens[:3], modality[:3])
                decoder.keep([0, 1, 2, 2])
    ours, theirs = short.cache([0, 1]), plain.cache([0, 1])
    assert ours.position.tolist() == theirs.position.tolist()
    assert [s.conv.dtype for s in ours] == [s.conv.dtype for s in theirs]
    assert {s.ssm.dtype for s in ours} == {torch.float32}
    return worst


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("split", ["all", "none", "dt_proj", "in_proj+x_proj+out_proj"])
def test_steps_equal_the_model(kind: Kind, dtype: torch.dtype, mixed: bool, split: str) -> None:
    model = make_model(split=split).to(dtype)
    assert drift(CachedDecoder(model), kind(model), mixed=mixed) < TOLERANCE[dtype]


@needs_native
@pytest.mark.parametrize(("form", "most"), [("bfloat16", 2e-2), ("int8", INT8)])
def test_narrow_weights_stay_close_to_the_model(form: str, most: float) -> None:
    model = make_model()
    error = drift(CachedDecoder(model), SteppingDecoder(model, model_step(model, form)), mixed=True)
    assert 1e-5 < error < most


@pytest.mark.parametrize("kind", BOTH)
def test_biases_of_projections_are_added(kind: Kind) -> None:
    config = make_model().config
    biased = ModelConfig(**{**config.to_dict(), "bias": True})
    model = MultimodalModel(biased).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    assert drift(CachedDecoder(model), kind(model), mixed=True) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kind", BOTH)
def test_a_snapshot_survives_further_steps(kind: Kind) -> None:
    decoder = kind(make_model())
    decoder.start([random_sequence(4, seed=0)])
    snapshot = decoder.cache([0])
    token, modality = torch.tensor([3]), torch.tensor([1])
    first = decoder.step(token, modality).clone()
    decoder.step(token, modality)
    decoder.resume(snapshot)
    assert torch.equal(decoder.step(token, modality), first)
    decoder.resume(snapshot)  # the first resume did not wear it out
    assert torch.equal(decoder.step(token, modality), first)


def test_wrapped_projections_run_by_themselves() -> None:
    class Doubled(torch.nn.Module):
        """An adapter that a shortcut past the module would miss."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            return 2 * self.inner(*args, **kwargs)

    model = make_model()
    assert isinstance(decoder_maker(model)(), SteppingDecoder)
    mixer = model.backbone.blocks[1].mixer
    mixer.x_proj = Doubled(mixer.x_proj)
    assert type(decoder_maker(model)()) is CachedDecoder
    with pytest.raises(ValueError, match="a part of block 1 was wrapped, hooked or replaced"):
        SteppingDecoder(model)
    with pytest.raises(ValueError, match="cannot be decoded natively: a part of block 1"):
        decoder_maker(model, "int8")
    attention = make_model(mixer="attention", head_dim=16)
    assert isinstance(decoder_maker(attention)(), RecomputingDecoder)


def test_models_that_are_not_served_natively_say_why() -> None:
    model = make_model().double()
    assert "float64" in str(why_not_native(model))
    decoder = decoder_maker(model)()
    assert isinstance(decoder, SteppingDecoder) and decoder._step.backend == "torch"
    with pytest.raises(ValueError, match="float32 and bfloat16 are served"):
        decoder_maker(model, "float32")


@needs_native
def test_a_model_that_moved_keeps_the_format_asked_for() -> None:
    model = make_model()
    make = decoder_maker(model, "int8")
    model.to(torch.bfloat16)
    decoder = make()
    assert isinstance(decoder, SteppingDecoder)
    assert (decoder._step.backend, decoder._step.format) == ("cpu", "int8")


def test_weights_as_they_are_ask_nothing_of_native_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(model: MultimodalModel) -> None:
        raise AssertionError("nothing native was asked for")

    monkeypatch.setattr("mixture_of_mamba.generation.choice.why_not_native", asked)
    assert isinstance(decoder_maker(make_model())(), SteppingDecoder)


@needs_native
def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="choose from"):
        model_step(make_model(), "int3")
