"""Every public path of a model with a continuous modality in every floating dtype, and whatever
torch's default dtype is, against the same model in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MambaBlock, MambaConfig, MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.decoders import CachedDecoder
from mixture_of_mamba.generation.diffusion import DiffusionOptions, denoise, empty_context
from mixture_of_mamba.generation.sequence import TokenSequence
from mixture_of_mamba.generation.stepping import SteppingDecoder
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.ops import native
from mixture_of_mamba.ops.decode_step import DecodeStep
from tests.helpers.sequences import BEGIN, batch_of, caption_first, image_first, model_of, text_only

# Relative to the largest value; bfloat16 has 8 bits, float16 11.
LIMITS = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 5e-2,
    torch.float16: 6e-3,
}
PATHS = ("losses", "gradients", "text logits", "image logits", "advance", "chunks", "denoised")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def awake(mixer: str) -> MultimodalModel:
    """Weights of which all dtypes hold the same, and an output map that is not zero."""
    config = replace(model_of().config, mixer=mixer, head_dim=8)
    model = MultimodalModel(config)
    torch.manual_seed(0)
    with torch.no_grad():
        model.diffusion["image"].outward.weight.normal_(0, 0.3)
        for p in model.parameters():
            p.copy_(p.bfloat16())
    return model


def batches() -> tuple[Batch, Batch]:
    return batch_of([[caption_first(1), image_first(2)]]), batch_of([[text_only(3)]])


def paths(model: MultimodalModel, batch: Batch, text: Batch) -> dict[str, Tensor]:
    """What every path gives, in float64."""
    found = {}
    model.train()
    output = model(batch)
    found["losses"] = torch.stack([output.loss, *output.losses.values()])
    output.loss.backward()
    found["gradients"] = torch.cat([p.grad.double().flatten() for p in model.parameters()])  # type: ignore[union-attr]
    model.eval().requires_grad_(False)
    found["text logits"] = model(text, return_logits=True).logits
    found["image logits"] = model(batch, return_logits=True, clean=True).logits
    if model.config.mixer == "mamba":
        tokens, ids = text.tokens, text.modality_ids
        found["advance"], state = model.advance(tokens, ids)
        first = model.advance(tokens[:, :4], ids[:, :4])[1]
        found["chunks"] = model.advance(tokens[:, 4:], ids[:, 4:], first)[0]
        assert found["chunks"].dtype == model.embedding.weight.dtype
        empty = empty_context(model, BEGIN)
        found["denoised"] = denoise(
            model, "image", state, 4, DiffusionOptions(steps=3), [1], unconditional=empty
        ).values
    return {name: x.detach().double() for name, x in found.items()}


@pytest.mark.parametrize("mixer", ["mamba", "attention"])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", LIMITS)
def test_every_path_in_every_dtype(dtype: torch.dtype, default: torch.dtype, mixer: str) -> None:
    given = batches()
    expected = paths(awake(mixer).double(), *given)
    model = awake(mixer).to(dtype)
    with default_dtype(default):
        found = paths(model, *given)
    assert set(found) == set(PATHS if mixer == "mamba" else PATHS[:4])
    for name, x in found.items():
        scale = float(expected[name].abs().max())
        error = float((x - expected[name]).abs().max()) / scale
        assert error <= LIMITS[dtype], f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", LIMITS)
def test_decoders_and_saved_states(dtype: torch.dtype, tmp_path: Path) -> None:
    model = awake("mamba").to(dtype).eval()
    text = batches()[1]
    state = model.advance(text.tokens, text.modality_ids)[1]
    state.save(tmp_path / "state", model)
    again = ModelState.load(tmp_path / "state", model)
    token, image = torch.tensor([[5]]), torch.tensor([[0]])
    expected = model.advance(token, image, state)[0]
    assert torch.equal(model.advance(token, image, again)[0], expected)
    prompt = TokenSequence()
    for t in text.tokens[0].tolist():
        prompt.append(0, t)
    kinds = [decoder_maker(model), lambda: CachedDecoder(model), lambda: SteppingDecoder(model)]
    for make in kinds:
        decoder = make()
        decoder.start([prompt])
        logits = decoder.step(token[0], image[0])
        scale = float(expected.abs().max())
        assert float((logits.double() - expected.double()).abs().max()) <= LIMITS[dtype] * scale


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_a_blocks_bits_do_not_depend_on_the_default_dtype(default: torch.dtype) -> None:
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=24, n_modalities=2))
    x, dy = torch.randn(2, 19, 24), torch.randn(2, 19, 24)
    ids = torch.randint(2, (2, 19))

    def run() -> list[Tensor]:
        leaves = [x.clone().requires_grad_(), *block.parameters()]
        first, state = block(leaves[0][:, :9], ids[:, :9], return_state=True)
        y = torch.cat([first, block(leaves[0][:, 9:], ids[:, 9:], state=state)], 1)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    expected = run()
    with default_dtype(default):
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_a_native_step_does_not_depend_on_the_default_dtype() -> None:
    from mixture_of_mamba.layers.fused import block_weights

    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=24)).requires_grad_(False)
    x, ids = torch.randn(2, 24), torch.zeros(2, dtype=torch.int64)

    def run() -> Tensor:
        step = DecodeStep([block_weights(block)], eps=1e-5)
        states = step.new_states(2)
        step(x, ids, states)
        return step(x, ids, states)

    expected = run()
    with default_dtype(torch.float64):
        assert torch.equal(run(), expected)
