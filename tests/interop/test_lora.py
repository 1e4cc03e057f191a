"""PEFT's LoRA on the stacked weights: every adapter trains, in every path through the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .hf_models import as_batch, ours

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from mixture_of_mamba import Modality, use_backend  # noqa: E402
from mixture_of_mamba.interop.hf import (  # noqa: E402
    LORA_TARGETS,
    MixtureOfMambaConfig,
    MixtureOfMambaForCausalLM,
    from_multimodal,
    to_multimodal,
)

# PEFT asks transformers under a name that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")


@pytest.fixture
def base() -> MixtureOfMambaForCausalLM:
    torch.manual_seed(0)
    model = MixtureOfMambaForCausalLM(
        MixtureOfMambaConfig(
            modalities=["text:discrete:30", "image:discrete:20"],
            hidden_size=32,
            num_hidden_layers=2,
            state_size=4,
        )
    )
    return model.eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (2, 11))


def adapted(base: MixtureOfMambaForCausalLM):  # type: ignore[no-untyped-def]
    config = peft.LoraConfig(target_parameters=LORA_TARGETS, r=2, lora_alpha=4)
    return peft.get_peft_model(base, config)


def train(model, ids: torch.Tensor, steps: int = 3) -> None:  # type: ignore[no-untyped-def]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()


def test_adapters_start_as_nothing_and_train_all_projections(base, ids) -> None:
    # A wrapped block does not take the fused op, whose sums round differently.
    with use_backend(modality_linear="loop"):
        before = base(ids).logits
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    model = adapted(base)
    assert torch.equal(model(ids).logits, before)
    train(model, ids)
    pairs = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(pairs) == 2 * 4 * 2  # A and B of four projections in two blocks
    for name, p in pairs.items():
        assert p.grad is not None and p.grad.any(), name
    assert (model(ids).logits - before).abs().max() > 1e-2
    for name, value in weights.items():
        found = [
            p for n, p in model.named_parameters() if n.replace(".base_layer", "").endswith(name)
        ]
        assert torch.equal(found[0], value), f"{name} is not frozen"


@pytest.mark.parametrize("projection", LORA_TARGETS)
def test_each_adapter_alone_changes_the_output(base, ids, projection: str) -> None:
    """A path that read `.weight` past the adapter would show here."""
    before = base(ids).logits
    model = peft.get_peft_model(base, peft.LoraConfig(target_parameters=[projection], r=2))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    assert not torch.allclose(model(ids).logits, before, atol=1e-4)
    model(ids, labels=ids).loss.backward()
    gradients = [p.grad for n, p in model.named_parameters() if "lora_" in n]
    assert all(g is not None and g.any() for g in gradients)


def test_logits_and_gradients_are_those_of_the_formula(base, ids) -> None:
    """W + alpha / r * B A for each expert, put into this package's model."""
    mine = to_multimodal(base)
    model = adapted(base)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(std=0.1)
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    weights = {n: p.detach() for n, p in mine.named_parameters()}
    pairs = {n: p for n, p in model.named_parameters() if "lora_" in n}
    leaves = {n: p.detach().clone().requires_grad_() for n, p in pairs.items()}
    for name in [n for n in leaves if "lora_A" in n]:
        layer, projection = name.split(".layers.")[1].split(".mixer.")
        target = f"backbone.blocks.{layer}.mixer.{projection.split('.')[0]}.weight"
        A = leaves[name].view(2, 2, -1)  # experts, rank, in
        B = leaves[name.replace("lora_A", "lora_B")].view(-1, 2, 2)  # out, rank, experts
        weights[target] = weights[target] + torch.stack(
            [4 / 2 * B[..., e] @ A[e] for e in range(2)]
        )
    expected = torch.func.functional_call(mine, weights, (as_batch(ids),), {"return_logits": True})
    expected.loss.backward()
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss)
    for name, leaf in leaves.items():
        assert leaf.grad.any(), name
        torch.testing.assert_close(pairs[name].grad, leaf.grad, msg=name, atol=1e-6, rtol=1e-4)


def test_both_modalities_have_their_own_adapter(base, ids) -> None:
    model = adapted(base)
    text = ids % 30
    train(model, text)
    layer = model.base_model.model.backbone.layers[0].mixer.in_proj
    delta = layer.get_delta_weight("default")
    assert delta.shape == (2, 128, 32)
    assert delta[0].any() and not delta[1].any()  # no image tokens, no change of their expert


def test_decoding_and_merging_use_the_adapters(base, ids) -> None:
    model = adapted(base)
    train(model, ids)
    tokens = model.generate(input_ids=ids[:, :4], max_new_tokens=8, do_sample=False)
    with torch.no_grad():
        step = model(ids[:, :10], use_cache=True)
        last = model(ids[:, 10:], cache=step.cache, use_cache=True).logits
        torch.testing.assert_close(last[:, 0], model(ids).logits[:, -1], atol=1e-5, rtol=1e-5)
        expected = model(ids).logits
    merged = model.merge_and_unload()
    assert type(merged) is MixtureOfMambaForCausalLM
    torch.testing.assert_close(merged(ids).logits, expected)
    again = merged.generate(input_ids=ids[:, :4], max_new_tokens=8, do_sample=False)
    assert torch.equal(tokens, again)


def test_saved_adapters_come_back(base, ids, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    model = adapted(base)
    train(model, ids)
    model.save_pretrained(tmp_path / "adapter")
    fresh = MixtureOfMambaForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_learnt_prompts_are_read_once(ids) -> None:
    """PEFT's prompt tuning: generate gives the tokens of whole passes behind the prompt."""
    plain = from_multimodal(ours(modalities=[Modality("text", "discrete", 50)]))
    prompt = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        token_dim=32,
        num_layers=2,
        num_attention_heads=1,  # which PEFT asks for, and does not use here
    )
    model = peft.get_peft_model(plain, prompt).eval()
    for p in model.prompt_encoder.parameters():
        p.data.normal_()
    learnt, embed = model.get_prompt(batch_size=2), plain.get_input_embeddings()
    tokens = ids = ids[:, :2]
    for _ in range(5):
        logits = plain(inputs_embeds=torch.cat([learnt, embed(tokens)], 1)).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    arguments = {"input_ids": ids, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(**arguments), tokens)
    assert not torch.equal(plain.generate(**arguments), tokens)  # or the prompt was not tested
    with pytest.raises(ValueError, match="cannot generate with a state"):
        model.generate(use_cache=True, **arguments)
