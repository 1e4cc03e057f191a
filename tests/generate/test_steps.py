"""The direct step against the model itself."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba import ModelConfig, MultimodalModel
from mixture_of_mamba.generate.decoders import CachedDecoder, RecomputingDecoder, make_decoder
from mixture_of_mamba.generate.steps import SteppingDecoder

from .tiny import make_model, random_sequence

# Largest difference of logits relative to the largest logit, after 12 steps.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("split", ["all", "none", "dt_proj", "in_proj+x_proj+out_proj"])
def test_steps_equal_the_model(dtype: torch.dtype, mixed: bool, split: str) -> None:
    model = make_model(split=split).to(dtype)
    prompts = [random_sequence(n, seed=n) for n in (3, 9, 5, 1)]
    plain, direct = CachedDecoder(model), SteppingDecoder(model)
    assert torch.equal(plain.start(prompts), direct.start(prompts))
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        modality = torch.randint(3, (4,), generator=generator)
        if not mixed:
            modality[:] = step % 3
        tokens = torch.randint(11, (4,), generator=generator)
        wanted, got = plain.step(tokens, modality), direct.step(tokens, modality)
        error = (wanted - got).float().abs().max() / wanted.float().abs().max()
        assert error < TOLERANCE[dtype]
        assert got.dtype == dtype
        if step == 6:
            plain.keep([0, 2, 3])
            direct.keep([0, 2, 3])
            generator, modality = torch.Generator().manual_seed(1), modality[:3]
            for decoder in (plain, direct):
                decoder.step(tokens[:3], modality)
                decoder.keep([0, 1, 2, 2])
    ours, theirs = direct.cache([0, 1]), plain.cache([0, 1])
    assert ours.position.tolist() == theirs.position.tolist()
    for a, b in zip(ours, theirs, strict=True):
        assert a.ssm.dtype == torch.float32
        assert a.conv.dtype == dtype
        torch.testing.assert_close(a.ssm, b.ssm, rtol=0.05, atol=0.05 * float(b.ssm.abs().max()))


def test_biases_of_projections_are_added() -> None:
    config = make_model().config
    biased = ModelConfig(**{**config.to_dict(), "bias": True})
    model = MultimodalModel(biased).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    prompts = [random_sequence(5, seed=0)]
    plain, direct = CachedDecoder(model), SteppingDecoder(model)
    plain.start(prompts), direct.start(prompts)
    token, modality = torch.tensor([3]), torch.tensor([1])
    torch.testing.assert_close(
        plain.step(token, modality), direct.step(token, modality), rtol=1e-4, atol=1e-6
    )


def test_a_snapshot_survives_further_steps() -> None:
    model = make_model()
    decoder = SteppingDecoder(model)
    decoder.start([random_sequence(4, seed=0)])
    snapshot = decoder.cache([0])
    token, modality = torch.tensor([3]), torch.tensor([1])
    first = decoder.step(token, modality)
    decoder.step(token, modality)
    decoder.resume(snapshot)
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
    assert isinstance(make_decoder(model), SteppingDecoder)
    mixer = model.backbone.blocks[1].mixer
    mixer.x_proj = Doubled(mixer.x_proj)
    assert type(make_decoder(model)) is CachedDecoder
    with pytest.raises(ValueError, match="x_proj is wrapped by Doubled"):
        SteppingDecoder(model)
    attention = make_model(mixer="attention", head_dim=16)
    assert isinstance(make_decoder(attention), RecomputingDecoder)
