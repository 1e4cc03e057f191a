"""Denoising from a snapshot: equal to recomputing everything, reproducible, and checked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.generation.diffusion import (
    DiffusionOptions,
    DiffusionSampler,
    SegmentProgress,
    denoise,
    empty_context,
    sampling_scheduler,
)
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.ops import Routing
from tests.helpers.sequences import BEGIN, CLOSE, DIM, END, OPEN, PATCHES, model_of

SAMPLERS = [("epsilon", "ddim"), ("epsilon", "ddpm"), ("v", "ddim"), ("sample", "ddpm"),
            ("flow", "flow")]  # fmt: skip


def awake(**diffusion: object) -> MultimodalModel:
    model = model_of(**diffusion)
    with torch.no_grad():
        model.diffusion["image"].outward.weight.normal_(0, 0.3)
    return model.eval()


def prompts(lengths: list[int]) -> list[Tensor]:
    """<document> words <image>, each of its own length."""
    return [torch.tensor([OPEN, *torch.randint(16, (n,)).tolist(), BEGIN]) for n in lengths]


def read(model: MultimodalModel, tokens: Tensor) -> ModelState:
    tokens = tokens.view(-1, tokens.shape[-1])
    return model.advance(tokens, torch.zeros_like(tokens))[1]


def recomputed(
    model: MultimodalModel, prompt: Tensor, options: DiffusionOptions, seed: int
) -> Tensor:
    """The whole sequence at every denoising step, with the schedulers called directly."""
    maps, flow = model.diffusion["image"], model.diffusion.config.prediction == "flow"
    scheduler = sampling_scheduler(options, model.diffusion.config)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(PATCHES, DIM, generator=generator)[None]
    place = torch.arange(PATCHES)

    def predict(tokens: Tensor, sample: Tensor, t: Tensor) -> Tensor:
        ids = torch.tensor([[0] * len(tokens) + [1] * PATCHES])
        routing = Routing.build(ids, 2)
        level = torch.full((PATCHES,), float(t) - flow)
        rows = torch.cat([model.embedding(tokens), maps.embed(sample[0].double(), level, place)])
        hidden, _ = model.backbone(rows, routing)
        return maps.predict(hidden[len(tokens) :])[None].float()

    for t in scheduler.timesteps:
        guided = predict(prompt, sample, t)
        if options.guidance != 1:
            without = predict(torch.tensor([BEGIN]), sample, t)
            guided = without + options.guidance * (guided - without)
        extra = {"generator": [generator]} if "DDPM" in type(scheduler).__name__ else {}
        sample = scheduler.step(guided, t, sample, **extra).prev_sample
    return sample[0]


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize(("prediction", "sampler"), SAMPLERS)
def test_snapshot_equals_recomputing_the_whole_sequence(
    prediction: str, sampler: str, guidance: float
) -> None:
    model = awake(prediction=prediction).double()
    prompt = prompts([7])[0]
    options = DiffusionOptions(sampler=sampler, steps=6, guidance=guidance)
    made = denoise(
        model,
        "image",
        read(model, prompt),
        PATCHES,
        options,
        [5],
        unconditional=empty_context(model, BEGIN),
    )
    # noise and schedulers are float32; the rest is float64
    torch.testing.assert_close(
        made.values[0].double(),
        recomputed(model, prompt, options, 5).double(),
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_text_goes_on_after_the_clean_patches() -> None:
    model = awake(prediction="sample")
    prompt = prompts([5])[0]
    options = DiffusionOptions(steps=4, guidance=1)
    made = denoise(model, "image", read(model, prompt), PATCHES, options, [1])
    after = torch.tensor([[END, CLOSE]])
    logits, _ = model.advance(after, torch.zeros_like(after), made.state)
    tokens = torch.cat([prompt, torch.zeros(PATCHES, dtype=torch.long), after[0]])[None]
    ids = torch.tensor([[0] * len(prompt) + [1] * PATCHES + [0, 0]])
    whole, _ = model.advance(tokens, ids, values={"image": made.values[0]})
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prediction", "sampler"), SAMPLERS)
def test_a_seed_decides_an_image_whatever_is_beside_it(prediction: str, sampler: str) -> None:
    model = awake(prediction=prediction)
    texts = prompts([3, 9, 6])
    states = [read(model, p) for p in texts]
    draw = DiffusionSampler({"image": BEGIN}, DiffusionOptions(sampler=sampler, steps=5))
    together = draw(model, ModelState.concatenate(states), "image", PATCHES, [1, 2, 3])
    again = draw(model, ModelState.concatenate(states), "image", PATCHES, [1, 2, 3])
    assert torch.equal(together, again)
    for i, state in enumerate(states):
        alone = draw(model, state, "image", PATCHES, [i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-3, atol=1e-3)
    other = draw(model, states[0], "image", PATCHES, [4])
    assert not torch.allclose(other[0], together[0], atol=1e-2)


def test_prompts_of_different_lengths_share_a_batch() -> None:
    model = awake(prediction="sample")
    short, long = prompts([2, 8])
    pad = len(long) - len(short)
    batch = Batch(
        tokens=torch.stack([torch.cat([torch.zeros(pad, dtype=torch.long), short]), long]),
        modality_ids=torch.zeros(2, len(long), dtype=torch.long),
        document_ids=torch.tensor([[0] * pad + [1] * len(short), [1] * len(long)]),
    )
    _, state = model.advance(batch.tokens, batch.modality_ids, document_ids=batch.document_ids)
    draw = DiffusionSampler({"image": BEGIN}, DiffusionOptions(steps=4))
    together = draw(model, state, "image", PATCHES, [7, 7])
    for i, prompt in enumerate((short, long)):
        alone = draw(model, read(model, prompt), "image", PATCHES, [7])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


def test_many_images_are_denoised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake(prediction="sample")
    state = read(model, prompts([4])[0]).expand(5)
    draw = DiffusionSampler({"image": BEGIN}, DiffusionOptions(steps=3))
    whole = draw(model, state, "image", PATCHES, range(5))
    monkeypatch.setattr("mixture_of_mamba.generation.diffusion.sampler.ROWS_AT_ONCE", 16)
    parts = draw(model, state, "image", PATCHES, range(5))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_guidance_of_zero_forgets_the_prompt() -> None:
    model = awake(prediction="sample")
    first, second = (read(model, p) for p in prompts([4, 4]))
    draw = DiffusionSampler({"image": BEGIN}, DiffusionOptions(steps=3, guidance=0))
    one, two = (draw(model, s, "image", PATCHES, [3]) for s in (first, second))
    torch.testing.assert_close(one, two)


def test_bars_are_drawn_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = awake(prediction="sample")
    state = read(model, prompts([4])[0])
    draw = DiffusionSampler({}, DiffusionOptions(steps=3, guidance=1))
    draw(model, state, "image", PATCHES, [0])
    assert not capsys.readouterr().err
    for total, form in ((1, "denoised: 1/1|"), (None, "denoised: 1 [")):
        with SegmentProgress(total, show=True) as bar:
            draw.progress = bar.advance
            draw(model, state, "image", PATCHES, [0])
            assert form in str(bar._bar)
        assert "denoised" in capsys.readouterr().err


def test_progress_counts_images_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake(prediction="sample")
    state = read(model, prompts([4])[0]).expand(5)
    monkeypatch.setattr("mixture_of_mamba.generation.diffusion.sampler.ROWS_AT_ONCE", 2 * PATCHES)
    done: list[float] = []
    draw = DiffusionSampler(
        {}, DiffusionOptions(steps=4, guidance=1), progress=lambda images: done.append(images)
    )
    draw(model, state, "image", PATCHES, range(5))
    assert done == [0.5] * 4 + [0.5] * 4 + [0.25] * 4  # two images at once, two, one


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guidance": -1}, "guidance is -1; give 0 or more"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"sampler": "euler"}, "sampler is 'euler'; choose from auto, flow, ddim, ddpm"),
    ],
)
def test_wrong_options_are_named(fields: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        DiffusionOptions(**fields)
    assert words in str(error.value)


def test_options_must_fit_the_model() -> None:
    config = awake(prediction="flow").diffusion.config  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="does not fit a model that predicts 'flow'"):
        sampling_scheduler(DiffusionOptions(sampler="ddim"), config)
    with pytest.raises(ValueError, match="steps is 2000, but the model has 1000 noise levels"):
        sampling_scheduler(DiffusionOptions(steps=2000), config)


def test_wrong_calls_are_named() -> None:
    model = awake()
    state = read(model, prompts([4])[0])
    plain = DiffusionOptions(steps=2, guidance=1)
    with pytest.raises(ValueError, match="no continuous modality 'text'"):
        denoise(model, "text", state, PATCHES, plain, [0])
    with pytest.raises(ValueError, match="2 seeds for 1 sequences"):
        denoise(model, "image", state, PATCHES, plain, [0, 1])
    with pytest.raises(ValueError, match="length is 0"):
        denoise(model, "image", state, 0, plain, [0])
    with pytest.raises(ValueError, match="needs the state of an empty context"):
        denoise(model, "image", state, PATCHES, DiffusionOptions(steps=2), [0])
    with pytest.raises(ValueError, match="no begin token of 'image'"):
        DiffusionSampler({}, DiffusionOptions(steps=2))(model, state, "image", PATCHES, [0])
