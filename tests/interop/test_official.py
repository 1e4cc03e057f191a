"""The official release's interface, held against its README example and against a plain formula."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mixture_of_mamba.interop.official import BaselineDenseMamba, MixtureOfMamba

B, L, D, M = 2, 13, 32, 3
PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")


def make(**fields) -> MixtureOfMamba:  # type: ignore[no-untyped-def]
    """A small module with biases that are not zero."""
    args = SimpleNamespace(
        n_modalities=M, **{k: fields.pop(k) for k in list(fields) if k.startswith("do_not")}
    )
    module = MixtureOfMamba(args, **{"d_model": D, "d_state": 8, "bias": True} | fields)
    for p in module.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return module


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, M, (B, L))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(B, L, D)


def masks_of(ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([ids.reshape(-1) == m for m in range(M)])


def formula(state: dict[str, torch.Tensor], x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The block from a state dict in official names, token by token."""

    def project(name: str, v: torch.Tensor, m: int) -> torch.Tensor:
        prefix = f"local_experts_{name}.{m}" if f"local_experts_{name}.0.weight" in state else name
        return F.linear(v, state[f"{prefix}.weight"], state.get(f"{prefix}.bias"))

    decay = -state["A_log"].exp()
    inner, states = decay.shape
    taps = state["conv1d.weight"][:, 0]
    rank = (
        state["dt_proj.weight"]
        if "dt_proj.weight" in state
        else (state["local_experts_dt_proj.0.weight"])
    ).shape[1]
    rows = []
    for b in range(len(x)):
        window, h = torch.zeros(inner, taps.shape[1]), torch.zeros(inner, states)
        for t in range(x.shape[1]):
            m = int(ids[b, t])
            u, z = project("in_proj", x[b, t], m).split(inner)
            window = torch.cat([window[:, 1:], u[:, None]], 1)
            u = F.silu((window * taps).sum(1) + state["conv1d.bias"])
            low, into, out = project("x_proj", u, m).split([rank, states, states])
            delta = F.softplus(project("dt_proj", low, m))
            h = torch.exp(delta[:, None] * decay) * h + (delta * u)[:, None] * into
            rows.append(project("out_proj", (h @ out + state["D"] * u) * F.silu(z), m))
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("shared", [(), ("dt_proj",), ("in_proj", "out_proj"), PROJECTIONS])
def test_output_is_the_formula_of_the_official_state_dict(x, ids, shared) -> None:
    module = make(**{f"do_not_split_{p}": True for p in shared})
    with torch.no_grad():
        expected = formula(module.state_dict(), x, ids)
        torch.testing.assert_close(module(x, masks_of(ids)), expected, atol=1e-5, rtol=1e-5)


def test_the_step_bias_counts_where_dt_proj_is_shared(x, ids) -> None:
    """The official code drops it there, so that its ablation changes two things at once."""
    module = make(do_not_split_dt_proj=True)
    before = module(x, masks_of(ids))
    module.dt_proj.bias.data.zero_()
    assert not torch.allclose(module(x, masks_of(ids)), before, atol=1e-3)


def test_state_dict_names_are_the_official_ones() -> None:
    names = set(make(do_not_split_x_proj=True).state_dict())
    experts = {
        f"local_experts_{p}.{m}.{part}"
        for p, m, part in itertools.product(
            ("in_proj", "dt_proj", "out_proj"), range(M), ("weight", "bias")
        )
    }
    assert names == experts | {"A_log", "D", "conv1d.weight", "conv1d.bias", "x_proj.weight"}
    dense = BaselineDenseMamba(SimpleNamespace(n_modalities=M), D).state_dict()
    assert set(dense) == {"A_log", "D", "conv1d.weight", "conv1d.bias", "dt_proj.bias"} | {
        f"{p}.weight" for p in PROJECTIONS
    }
    assert dense["in_proj.weight"].shape == (4 * D, D)
    assert dense["dt_proj.bias"].shape == (2 * D,)


def test_state_dict_round_trip_also_when_nested(x, ids, tmp_path: Path) -> None:
    first = torch.nn.ModuleDict({"a": make(do_not_split_in_proj=True), "b": make()})
    second = torch.nn.ModuleDict({"a": make(do_not_split_in_proj=True), "b": make()})
    torch.save(first.state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    names = list(state)
    assert str(second.load_state_dict(state)) == "<All keys matched successfully>"
    assert list(state) == names  # the user's table is not changed
    for name in ("a", "b"):
        assert torch.equal(first[name](x, masks_of(ids)), second[name](x, masks_of(ids)))


def test_missing_extra_and_misshapen_tensors_are_named_officially() -> None:
    module = make()
    state = module.state_dict()
    state["local_experts_x_proj.1.weights"] = state.pop("local_experts_x_proj.1.weight")
    state["local_experts_in_proj.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(RuntimeError) as error:
        module.load_state_dict(state)
    message = str(error.value)
    assert 'Missing key(s) in state_dict: "local_experts_x_proj.1.weight".' in message
    assert 'Unexpected key(s) in state_dict: "local_experts_x_proj.1.weights".' in message
    assert "local_experts_in_proj.0.weight has shape (2, 2), needs (128, 32)" in message


def test_every_form_of_masks_means_the_same(x, ids) -> None:
    module = make()
    masks = masks_of(ids)
    expected = module(x, masks)
    forms = {
        "ids": ids,
        "int32 ids": ids.int(),
        "rows": list(masks),
        "tuple": tuple(masks),
        "(m, b, t)": masks.view(M, B, L),
        "positions": [row.nonzero()[:, 0] for row in masks],
    }
    for name, form in forms.items():
        assert torch.equal(module(x, form), expected), name


def test_a_token_of_two_modalities_belongs_to_the_first(x, ids) -> None:
    module, masks = make(), masks_of(ids)
    masks[:, -1] = True  # as the official helper marks the last token
    first = ids.clone()
    first[-1, -1] = 0
    assert torch.equal(module(x, masks), module(x, first))


def test_no_masks_mean_one_modality(x, ids) -> None:
    module = make()
    assert torch.equal(module(x), module(x, torch.zeros_like(ids)))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(M, B * L, dtype=torch.bool), r"26 tokens are of no modality.*batch 0, time 0"),
        (torch.ones(M + 1, B * L, dtype=torch.bool), r"\(4, 26\).*3 modalities"),
        ([torch.ones(B * L, dtype=torch.bool)] * 2, r"2 rows, but the module has 3 modalities"),
        ([torch.ones(5, dtype=torch.bool)] * 3, r"row 0 .* 5 entries; 26 are needed"),
        ([torch.tensor([26])] * 3, r"positions outside 0\.\.25"),
        (torch.full((B, L), M), r"reach 3\.\.3.*valid ids are 0\.\.2"),
        (torch.zeros(L, B, dtype=torch.int64), r"modality ids are \(2, 13\)"),
    ],
)
def test_bad_masks_are_refused(x, masks, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(x, masks)


def test_gradients_reach_every_expert_and_stay_zero_without_tokens(x, ids) -> None:
    module = make()
    ids = ids.clamp(max=1)
    module(x, masks_of(ids)).square().sum().backward()
    gradient = module.out_proj.weight.grad
    assert gradient[0].any() and gradient[1].any() and not gradient[2].any()


@pytest.mark.parametrize("kind", [MixtureOfMamba, BaselineDenseMamba])
def test_prompt_steps_and_chunks_give_the_whole(x, ids, kind) -> None:
    module = kind(SimpleNamespace(n_modalities=M), D, layer_idx=5)
    whole = module(x, ids)
    cache = SimpleNamespace(seqlen_offset=0, key_value_memory_dict={})
    parts = []
    for start, stop in [(0, 6), (6, 7), (7, 8), (8, 11), (11, L)]:
        cache.seqlen_offset = start
        parts.append(module(x[:, start:stop], ids[:, start:stop], inference_params=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)
    assert set(cache.key_value_memory_dict) == {5}
    cache.seqlen_offset = 0  # a new prompt in the same cache starts from nothing
    again = module(x, ids, inference_params=cache)
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=1e-5)


def test_step_from_an_allocated_cache(x, ids) -> None:
    module = make()
    conv, ssm = module.allocate_inference_cache(B, max_seqlen=L)
    assert conv.shape == (B, 2 * D, 4) and ssm.shape == (B, 2 * D, 8)
    with torch.no_grad():
        steps = [module.step(x[:, t : t + 1], conv, ssm, ids[:, t : t + 1])[0] for t in range(L)]
        torch.testing.assert_close(torch.cat(steps, 1), module(x, ids), atol=1e-6, rtol=1e-5)


def test_bad_caches_are_refused(x, ids) -> None:
    cache = SimpleNamespace(seqlen_offset=0, key_value_memory_dict={})
    with pytest.raises(ValueError, match="layer_idx is None"):
        make()(x, ids, inference_params=cache)
    module = make(layer_idx=0)
    module(x, ids, inference_params=cache)
    with pytest.raises(ValueError, match="holds 2 sequences, but this call has 1"):
        module(x[:1], ids[:1], inference_params=cache)


def test_constructor_options_mean_what_they_say() -> None:
    module = make(dt_rank=5, dt_init="constant", dt_scale=2.0, expand=3, d_conv=3, bias=False)
    assert module.d_inner == 96 and module.dt_rank == 5
    fresh = MixtureOfMamba(
        SimpleNamespace(n_modalities=2), D, dt_init="constant", dt_scale=2.0, dt_rank=4
    )
    assert bool((fresh.dt_proj.weight == 1.0).all())  # 4 ** -0.5 * 2
    with pytest.raises(NotImplementedError, match="choose 'random' or 'constant'"):
        make(dt_init="zeros")
    with pytest.raises(ValueError, match="must be at least 1"):
        make(expand=0.01)


def test_expansions_that_are_not_whole(x, ids) -> None:
    for expand, inner in ((1.5, 48), (1.3, 41), (0.5, 16)):
        module = make(expand=expand)
        assert (module.expand, module.d_inner) == (expand, inner)  # rounded down, as there
        state = module.state_dict()
        assert state["local_experts_in_proj.0.weight"].shape == (2 * inner, D)
        with torch.no_grad():
            expected = formula(state, x, ids)
            torch.testing.assert_close(module(x, ids), expected, atol=1e-5, rtol=1e-5)
            conv, ssm = module.allocate_inference_cache(B, max_seqlen=L)
            assert conv.shape == (B, inner, 4) and ssm.shape == (B, inner, 8)
            steps = [module.step(x[:, t : t + 1], conv, ssm, ids[:, t : t + 1])[0] for t in (0, 1)]
            torch.testing.assert_close(torch.cat(steps, 1), expected[:, :2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [MixtureOfMamba, BaselineDenseMamba])
def test_a_whole_module_is_saved_and_copied(x, ids, kind, tmp_path: Path) -> None:
    """Read in a fresh process, which has registered no hook yet; names stay the official ones."""
    module = kind(SimpleNamespace(n_modalities=M, do_not_split_x_proj=True), D)
    torch.save({"module": module, "x": x, "ids": ids}, tmp_path / "whole.pt")
    code = (
        "import sys, torch\n"
        f"saved = torch.load({str(tmp_path / 'whole.pt')!r}, weights_only=False)\n"
        "y = saved['module'](saved['x'], saved['ids'])\n"
        "state = saved['module'].state_dict()\n"
        "saved['module'].load_state_dict(state)\n"
        f"torch.save((y.detach(), state), {str(tmp_path / 'result.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    y, state = torch.load(tmp_path / "result.pt")
    assert torch.equal(y, module(x, ids))
    assert list(state) == list(module.state_dict())
    assert torch.equal(copy.deepcopy(module)(x, ids), y)


def test_both_modules_say_how_many_modalities_their_arguments_have() -> None:
    for kind in (MixtureOfMamba, BaselineDenseMamba):
        assert kind(SimpleNamespace(n_modalities=M), D).n_modalities == M


def test_low_precision_keeps_decay_and_state_in_float32(x, ids) -> None:
    module = MixtureOfMamba(SimpleNamespace(n_modalities=M), D, dtype=torch.bfloat16)
    assert module.A_log.dtype == module.D.dtype == torch.float32
    assert torch.equal(module.A_log[0], torch.arange(1.0, 17.0).log())
    assert module.in_proj.weight.dtype == torch.bfloat16
    assert module(x.bfloat16(), ids).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):  # the official code fails here
        assert make()(x, ids).isfinite().all()


def test_the_readme_example_runs_with_only_the_import_changed() -> None:
    """The configuration is the README's, with its placeholder for further settings left out."""

    class ModelConfig:
        def __init__(self) -> None:
            self.use_MixtureOfMamba = True
            self.use_BaselineDenseMamba = False
            self.do_not_split_in_proj = False
            self.do_not_split_x_proj = False
            self.do_not_split_dt_proj = False
            self.do_not_split_out_proj = False

    model = MixtureOfMamba(args=ModelConfig(), d_model=768, d_state=16, d_conv=4, expand=2)
    hidden_states = torch.randn(1, 8, 768)
    modality = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0]])
    modality_masks = torch.stack([modality.view(-1) == 0, modality.view(-1) == 1])
    output = model(hidden_states, modality_masks=modality_masks)
    assert output.shape == hidden_states.shape
    assert not torch.equal(output, model(hidden_states))  # the second expert took part
