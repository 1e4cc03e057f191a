"""Keywords: known ones under all their names, unknown ones refused, no warnings of our making."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch

from .hf_models import IMAGE, STEP, TEXT, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import (  # noqa: E402
    MixtureOfMambaConfig,
    MixtureOfMambaForCausalLM,
    from_multimodal,
)
from mixture_of_mamba.interop.hf.keywords import CACHE_NAMES  # noqa: E402


@pytest.fixture
def model() -> MixtureOfMambaForCausalLM:
    return from_multimodal(ours())


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, TEXT + IMAGE, (2, 8))


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_every_name_of_the_cache_continues_it(model, ids, name: str) -> None:
    with torch.no_grad():
        first = model(ids[:, :5], use_cache=True)
        assert getattr(first, name) is first.get(name) is first[name] is first.cache
        more = model(ids[:, 5:], **{name: first.cache}).logits
        torch.testing.assert_close(more, model(ids).logits[:, 5:], **STEP)
        cache = model.backbone(ids[:, :5], use_cache=True).cache
        more = model.backbone(ids[:, 5:], **{name: cache}).last_hidden_state
        whole = model.backbone(ids).last_hidden_state
        torch.testing.assert_close(more, whole[:, 5:], **STEP)


def test_the_name_that_generate_uses_is_read(model, ids) -> None:
    """With a name that is not, every step is computed without its past."""
    steps = []

    def note(module, args, kwargs) -> None:  # type: ignore[no-untyped-def]
        steps.append((kwargs["input_ids"].shape[1], kwargs["cache"] is not None))

    model.register_forward_pre_hook(note, with_kwargs=True)
    model.generate(ids, max_new_tokens=3, do_sample=False)
    assert steps == [(8, True), (1, True), (1, True)]


def test_two_different_caches_are_refused(model, ids) -> None:
    caches = [model(ids, use_cache=True).cache for _ in range(2)]
    with pytest.raises(TypeError, match="two different caches"):
        model(ids, cache=caches[0], past_key_values=caches[1])
    model(ids, cache=caches[0], cache_params=caches[0])


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("attention_maks", "attention_mask"),
        ("lables", "labels"),
        ("chache", "cache"),
        ("past_key_value", "past_key_values"),
        ("position_id", "position_ids"),
        ("num_logits_to_keep", "logits_to_keep"),
    ],
)
def test_an_unknown_keyword_is_named_with_the_nearest(model, ids, wrong: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"no argument '{wrong}'; the nearest is '{nearest}'"):
        model(ids, **{wrong: None})
    if nearest not in ("labels", "logits_to_keep"):
        with pytest.raises(TypeError, match=f"'{wrong}'; the nearest is '{nearest}'"):
            model.backbone(ids, **{wrong: None})


def test_what_a_state_space_model_has_not_is_refused(model, ids) -> None:
    for name in ("output_attentions", "output_router_logits"):
        assert torch.equal(model(ids, **{name: False}).logits, model(ids).logits)
        with pytest.raises(
            ValueError, match=f"{name}=True asks for something that Mamba does not have"
        ):
            model(ids, **{name: True})
    with pytest.raises(ValueError, match="is_causal=False"):
        model(ids, is_causal=False)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("hidden_sise", "hidden_size"), ("d_model", "hidden_size")]
)
def test_misspelt_fields_of_the_configuration_are_refused(wrong: str, nearest: str) -> None:
    with pytest.raises(TypeError, match=f"no field '{wrong}'.*'{nearest}'"):
        MixtureOfMambaConfig(modalities=["text:discrete:9"], **{wrong: 32})


def test_fields_of_the_callers_own_are_kept(tmp_path) -> None:
    config = MixtureOfMambaConfig(modalities=["text:discrete:9"], hidden_size=32, my_note="x")
    config.save_pretrained(tmp_path)
    assert MixtureOfMambaConfig.from_pretrained(tmp_path).my_note == "x"


def test_nothing_warns_of_names_that_are_to_go(model, ids, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    logging.Logger.warning_once.cache_clear()  # what it has said once it would not say again
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        cache = model(ids, use_cache=True).cache
        model(ids, cache=cache)
        model.generate(ids, max_new_tokens=2, do_sample=False)
        model.generate(ids, max_new_tokens=2, do_sample=False, num_beams=2)
        model.generate(ids, max_new_tokens=2, do_sample=False, guidance_scale=1.5)
        model.save_pretrained(tmp_path)
        MixtureOfMambaForCausalLM.from_pretrained(tmp_path)
    assert "deprecated" not in caplog.text


def test_every_nth_block_is_recomputed(ids) -> None:
    config = MixtureOfMambaConfig(
        modalities=[f"text:discrete:{TEXT + IMAGE}"],
        hidden_size=32,
        num_hidden_layers=4,
        state_size=4,
    )
    model = MixtureOfMambaForCausalLM(config)
    model._set_gradient_checkpointing(
        True, lambda f, *a: calls.append(f) or f(*a), every_n_layers=2
    )
    calls: list[object] = []
    model(ids)
    assert len(calls) == 2
