"""A mixture in transformers: the same numbers, its cache, generate(), Auto classes, Trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixture_of_mamba.interop import load_model

from .hf_models import IMAGE, STEP, TEXT, as_batch, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import (  # noqa: E402
    MixtureOfMambaConfig,
    MixtureOfMambaForCausalLM,
    MixtureOfMambaModel,
    from_multimodal,
    to_multimodal,
)


@pytest.fixture
def model() -> MixtureOfMambaForCausalLM:
    return from_multimodal(ours())


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, TEXT + IMAGE, (2, 11))


@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_logits_and_loss_are_those_of_the_multimodal_model(ids, vocabulary: str) -> None:
    mine = ours(vocabulary=vocabulary)
    output = from_multimodal(mine)(ids, labels=ids)
    expected = mine(as_batch(ids), return_logits=True)
    assert torch.equal(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)


def test_conversion_and_back_is_exact(ids) -> None:
    for tied in (False, True):
        mine = ours(tie_embeddings=tied)
        again = to_multimodal(from_multimodal(mine))
        assert again.config == mine.config
        for name, tensor in mine.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert (again.head.weight is again.embedding.weight) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load_through_the_auto_classes(ids, tmp_path: Path, tied: bool) -> None:
    model = from_multimodal(ours(tie_embeddings=tied))
    model.save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(config) is MixtureOfMambaConfig
    assert config.model_type == "mixture_of_mamba"
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(again) is MixtureOfMambaForCausalLM
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(again(ids).logits, model(ids).logits)
    backbone = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(backbone) is MixtureOfMambaModel
    assert torch.equal(backbone(ids).last_hidden_state, model.backbone(ids).last_hidden_state)
    batch = as_batch(ids)
    assert torch.equal(load_model(tmp_path)(batch, return_logits=True).logits, model(ids).logits)


def test_loading_in_half_precision_keeps_the_decay_wide(model, ids, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    half = MixtureOfMambaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    mixer = half.backbone.layers[0].mixer
    assert mixer.A_log.dtype == mixer.D.dtype == torch.float32
    assert mixer.in_proj.weight.dtype == torch.bfloat16
    torch.testing.assert_close(half(ids).logits, model(ids).logits, atol=0.1, rtol=0.1)


@pytest.mark.filterwarnings("ignore:.*runs on backend 'torch'")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_conversions_keep_dtypes_and_the_decay_wide(ids, dtype: torch.dtype) -> None:
    """A_log and D in float32 or wider, also where a cast of the whole model narrowed them."""
    wide = torch.promote_types(dtype, torch.float32)
    mine = ours().to(dtype)
    theirs = from_multimodal(mine)
    back = to_multimodal(from_multimodal(ours()).to(dtype))
    for model in (theirs, back):
        for name, p in model.named_parameters():
            assert p.dtype == (wide if name.endswith((".A_log", ".D")) else dtype), name
    logits = theirs(ids).logits
    assert logits.dtype == wide
    expected = back(as_batch(ids), return_logits=True).logits
    assert torch.equal(logits, expected.to(wide))


def test_missing_tensors_are_drawn_and_present_ones_kept(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    lost = "backbone.layers.1.mixer.in_proj.weight"
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})
    again = MixtureOfMambaForCausalLM.from_pretrained(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(again.get_parameter(name), tensor), name
    fresh = again.get_parameter(lost)
    assert fresh.isfinite().all() and 0.05 < float(fresh.detach().std()) < 0.2


def test_modality_ids_may_be_given_or_left_out(model, ids) -> None:
    given = model(ids, modality_ids=(ids >= TEXT).long()).logits
    assert torch.equal(model(ids).logits, given)
    assert not torch.equal(model(ids, modality_ids=torch.zeros_like(ids)).logits, given)


def test_every_chunking_with_the_cache_gives_the_whole(model, ids) -> None:
    with torch.no_grad():
        whole = model(ids, use_cache=False)
        assert whole.cache is None
        cache, parts = None, []
        for start, stop in [(0, 3), (3, 4), (4, 9), (9, 10), (10, 11)]:
            output = model(ids[:, start:stop], cache=cache, use_cache=True)
            cache = output.cache
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, **STEP)


def test_generate_with_and_without_the_cache_agree(model, ids) -> None:
    prompt = ids[:, :5]
    cached = model.generate(prompt, max_new_tokens=8, do_sample=False)
    assert cached.shape == (2, 13)
    plain = model.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)
    given = model.generate(
        prompt, modality_ids=(prompt >= TEXT).long(), max_new_tokens=8, do_sample=False
    )
    assert torch.equal(cached, given)
    by_hand = prompt
    for _ in range(8):
        with torch.no_grad():
            by_hand = torch.cat([by_hand, model(by_hand).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, by_hand)


def test_beams_find_what_a_search_without_cache_finds(model, ids) -> None:
    arguments = {"max_new_tokens": 6, "num_beams": 4, "do_sample": False}
    cached = model.generate(ids[:, :4], **arguments)
    assert torch.equal(cached, model.generate(ids[:, :4], use_cache=False, **arguments))
    assert not torch.equal(
        cached, model.generate(ids[:, :4], max_new_tokens=6, do_sample=False)
    )  # or the beams were not tested


def test_sampling_follows_the_seed(model, ids) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.generate(ids[:, :4], max_new_tokens=12, do_sample=True, top_k=20)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_left_padding_equals_each_prompt_alone(model, ids) -> None:
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    padded = ids.clone()
    padded[0, :6] = 7
    with torch.no_grad():
        alone = model(ids[:1, 6:]).logits
        together = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(together[:1, 6:], alone, **STEP)
    both = model.generate(padded, attention_mask=mask, max_new_tokens=7, do_sample=False)
    for row, start in [(0, 6), (1, 0)]:
        single = model.generate(ids[row : row + 1, start:], max_new_tokens=7, do_sample=False)
        assert torch.equal(both[row, 11:], single[0, 11 - start :])


def test_padding_ends_where_a_chunk_ends(model, ids) -> None:
    """The state of the pads must be left behind although the chunk after them has none."""
    mask = torch.ones_like(ids)
    mask[:, :4] = 0
    with torch.no_grad():
        first = model(ids[:, :4], attention_mask=mask[:, :4], use_cache=True)
        second = model(ids[:, 4:], attention_mask=mask, cache=first.cache, use_cache=True)
        torch.testing.assert_close(second.logits, model(ids[:, 4:]).logits, **STEP)


def test_padding_on_either_side_does_not_count_in_the_loss(model, ids) -> None:
    alone = model(ids[:1, :7], labels=ids[:1, :7]).loss
    for mask in (torch.arange(11) < 7, torch.arange(11) >= 4):
        padded = torch.zeros(1, 11, dtype=torch.int64)
        padded[:, mask] = ids[:1, :7]
        loss = model(padded, attention_mask=mask.long()[None], labels=padded).loss
        torch.testing.assert_close(loss, alone)


def test_packed_documents_equal_documents_alone(model, ids) -> None:
    documents = torch.tensor([[0] * 4 + [1] * 7] * 2)
    with torch.no_grad():
        packed = model(ids, document_ids=documents).logits
        torch.testing.assert_close(packed[:, 4:], model(ids[:, 4:]).logits, **STEP)


def test_embeddings_in_hidden_states_out(model, ids) -> None:
    embeds = model.get_input_embeddings()(ids)
    modality = (ids >= TEXT).long()
    output = model(inputs_embeds=embeds, modality_ids=modality, output_hidden_states=True)
    assert torch.equal(output.logits, model(ids).logits)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[0], embeds)
    assert torch.equal(model.lm_head(output.hidden_states[-1]), output.logits)
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)
    assert torch.equal(model(ids, logits_to_keep=2).logits, output.logits[:, -2:])
    with pytest.raises(ValueError, match="give modality_ids as well"):
        model(inputs_embeds=embeds)


def test_recomputed_blocks_give_the_same_gradients(model, ids) -> None:
    model.train()
    model(ids, labels=ids).loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    assert model.backbone.gradient_checkpointing
    model(ids, labels=ids).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_a_trainer_step_trains_every_expert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MixtureOfMambaForCausalLM(
        MixtureOfMambaConfig(
            modalities=[f"text:discrete:{TEXT}", f"image:discrete:{IMAGE}"],
            hidden_size=32,
            num_hidden_layers=2,
            state_size=4,
        )
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = torch.randint(0, TEXT + IMAGE, (4, 11))
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    assert trainer.train().training_loss > 0
    for name, p in model.named_parameters():
        moved = p.detach() != before[name]
        if "_proj" in name:
            assert moved.flatten(1).any(1).all(), f"an expert of {name} did not move"
        assert moved.any(), name
    trainer.save_model(tmp_path / "saved")
    again = MixtureOfMambaForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(rows).logits, model.eval()(rows).logits)


def test_configurations_are_checked() -> None:
    config = MixtureOfMambaConfig(modalities=["text:discrete:9"], hidden_size=32)
    assert (config.vocab_size, config.time_step_rank) == (9, 2)
    with pytest.raises(ValueError, match=r"\['image'\] are continuous"):
        MixtureOfMambaConfig(modalities=["text:discrete:9", "image:continuous:4"])
    with pytest.raises(ValueError, match="the modalities have 9 tokens"):
        MixtureOfMambaConfig(modalities=["text:discrete:9"], vocab_size=10)
    with pytest.raises(ValueError, match="split has unknown projections"):
        MixtureOfMambaConfig(split=["conv1d"])


def test_the_vocabulary_is_not_resized(model) -> None:
    assert model.resize_token_embeddings(TEXT + IMAGE) is model.get_input_embeddings()
    with pytest.raises(ValueError, match=r"cannot be resized here; interop\.upcycle"):
        model.resize_token_embeddings(77)


def test_importing_the_package_does_not_import_transformers() -> None:
    code = (
        "import sys, mixture_of_mamba, mixture_of_mamba.interop, "
        "mixture_of_mamba.interop.official; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
