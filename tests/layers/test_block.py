"""Properties of one block, for all 16 splits."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

import mixture_of_mamba as mom

SPLITS = [frozenset(c) for k in range(5) for c in combinations(sorted(mom.PROJECTIONS), k)]
some_splits = pytest.mark.parametrize("split", SPLITS, ids=lambda s: "+".join(sorted(s)) or "dense")


def block(split: frozenset[str] = mom.PROJECTIONS, m: int = 3, **kw) -> mom.MambaBlock:
    config = mom.MambaConfig(
        **({"d_model": 10, "n_modalities": m, "split": split, "d_state": 5} | kw)
    )
    made = mom.MambaBlock(config).double()
    with torch.no_grad():  # every parameter away from its special initial value
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def tokens(b: int = 2, t: int = 13, m: int = 3, d: int = 10) -> tuple[Tensor, Tensor]:
    return torch.randn(b, t, d, dtype=torch.float64), torch.randint(0, m, (b, t))


def test_no_split_is_the_dense_mamba_of_transformers() -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaBlock

    ours = mom.MambaBlock(mom.MambaConfig(d_model=16, split=frozenset(), d_state=4))
    theirs = MambaBlock(
        MambaConfig(hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=8), layer_idx=0
    )
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.1 * torch.randn_like(p))
        theirs.norm.weight.copy_(ours.norm.weight)
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
            getattr(theirs.mixer, name).weight.copy_(getattr(ours.mixer, name).weight[0])
        theirs.mixer.dt_proj.bias.copy_(ours.mixer.dt_proj.bias[0])
        theirs.mixer.conv1d.weight.copy_(ours.mixer.conv1d.weight)
        theirs.mixer.conv1d.bias.copy_(ours.mixer.conv1d.bias)
        theirs.mixer.A_log.copy_(ours.mixer.A_log)
        theirs.mixer.D.copy_(ours.mixer.D)
    x = torch.randn(2, 21, 16)
    torch.testing.assert_close(ours(x), theirs(x), atol=2e-6, rtol=1e-5)


@some_splits
def test_equal_experts_equal_the_dense_block(split: frozenset[str]) -> None:
    dense = block(frozenset())
    mixture = block(split)
    with torch.no_grad():
        for name, p in mixture.named_parameters():
            p.copy_(dense.get_parameter(name).expand_as(p))
    x, ids = tokens()
    torch.testing.assert_close(mixture(x, ids), dense(x, ids), atol=1e-12, rtol=1e-12)


@some_splits
def test_names_of_modalities_do_not_matter(split: frozenset[str]) -> None:
    first, second = block(split), block(split)
    permutation = torch.tensor([2, 0, 1])  # modality i of `first` is called permutation[i]
    with torch.no_grad():
        for name, p in second.named_parameters():
            q = first.get_parameter(name)
            stacked = any(f".{s}." in f".{name}" for s in split)
            p.copy_(q[permutation.argsort()] if stacked else q)
    x, ids = tokens()
    torch.testing.assert_close(second(x, permutation[ids]), first(x, ids), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("cut", range(1, 13))
def test_two_halves_with_carried_state_equal_the_whole(cut: int) -> None:
    mixture = block()
    x, ids = tokens()
    whole, end = mixture(x, ids, return_state=True)
    first, state = mixture(x[:, :cut], ids[:, :cut], return_state=True)
    second, last = mixture(x[:, cut:], ids[:, cut:], state=state, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-12, rtol=1e-12)
    for a, b in zip(last, end, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_one_token_at_a_time_equals_the_whole() -> None:
    mixture = block()
    x, ids = tokens()
    whole = mixture(x, ids)
    state, steps = None, []
    for i in range(x.shape[1]):
        y, state = mixture(x[:, i : i + 1], ids[:, i : i + 1], state=state, return_state=True)
        steps.append(y)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-12, rtol=1e-12)


def test_packed_documents_equal_each_alone() -> None:
    mixture = block()
    x, ids = tokens(b=1, t=17)
    lengths = [4, 1, 2, 10]
    documents = torch.repeat_interleave(torch.tensor([7, 3, 4, 9]), torch.tensor(lengths))[None]
    packed = mixture(x, ids, document_ids=documents)
    alone = [mixture(a, i) for a, i in zip(x.split(lengths, 1), ids.split(lengths, 1), strict=True)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), atol=1e-12, rtol=1e-12)


def test_gradients_flow_through_the_carried_state() -> None:
    mixture = block()
    x, ids = tokens()
    weights = torch.randn_like(x)
    (mixture(x, ids) * weights).sum().backward()
    whole = {name: p.grad.clone() for name, p in mixture.named_parameters()}
    mixture.zero_grad()
    first, state = mixture(x[:, :5], ids[:, :5], return_state=True)
    second = mixture(x[:, 5:], ids[:, 5:], state=state)
    (torch.cat([first, second], 1) * weights).sum().backward()
    for name, p in mixture.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], atol=1e-11, rtol=1e-11)


def test_an_absent_modality_gets_zero_gradients_not_none() -> None:
    mixture = block()
    x, ids = tokens()
    mixture(x, ids.clamp(max=1)).sum().backward()
    for name, p in mixture.named_parameters():
        assert p.grad is not None, name
        if "_proj" in name:
            assert not p.grad[2].any(), name
            assert p.grad[0].any() and p.grad[1].any(), name


@pytest.mark.parametrize("split", [frozenset(), frozenset({"x_proj"}), mom.PROJECTIONS])
def test_gradients_against_finite_differences(split: frozenset[str]) -> None:
    mixture = block(split, d_model=3, d_state=2, d_conv=3)
    x, ids = tokens(b=2, t=5, d=3)
    x.requires_grad_()
    documents = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 2]])
    names = [name for name, _ in mixture.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(
            mixture, dict(zip(names, values, strict=True)), (x, ids), {"document_ids": documents}
        )

    parameters = [p.detach().clone().requires_grad_() for p in mixture.parameters()]
    assert torch.autograd.gradcheck(run, (x, *parameters), atol=1e-6, rtol=1e-4)


def test_an_empty_batch_and_an_empty_sequence() -> None:
    mixture = block().float()
    for shape in ((0, 4, 10), (2, 0, 10)):
        x = torch.randn(shape)
        y, state = mixture(x, torch.zeros(shape[:2], dtype=torch.long), return_state=True)
        assert y.shape == x.shape
        assert not state.ssm.any()


def test_state_spaces_initial_values_in_every_expert() -> None:
    config = mom.MambaConfig(d_model=64, n_modalities=3)
    mixer = mom.MambaMixer(config)
    mixer.init_weights(seed=5, name="m", residual_branches=9)
    d, r = config.d_inner, config.rank
    bounds = {"in_proj": 64**-0.5, "x_proj": d**-0.5, "dt_proj": r**-0.5, "out_proj": d**-0.5 / 3}
    for name, bound in bounds.items():
        weight = getattr(mixer, name).weight
        for expert in weight:
            assert expert.abs().max() <= bound
            assert expert.detach().std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not torch.equal(weight[0], weight[1])  # each its own draw
    step = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert step.min() >= 1e-3 * 0.999 and step.max() <= 0.1 * 1.001
    assert torch.equal(mixer.A_log[7], torch.arange(1, 17).float().log())
    assert torch.equal(mixer.D, torch.ones(d))


def test_variants_share_the_initial_values_they_have_in_common() -> None:
    dense = mom.MambaBlock(mom.MambaConfig(d_model=8, n_modalities=2, split=frozenset()))
    mixture = mom.MambaBlock(mom.MambaConfig(d_model=8, n_modalities=2))
    for made in (dense, mixture):
        made.init_weights(seed=3, name="blocks.0")
    for name, p in dense.named_parameters():
        q = mixture.get_parameter(name)
        assert torch.equal(p, q[: len(p)] if "_proj" in name else q), name


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.full((2, 13), 3), r"contains 3, but there are 3 modalities \(valid ids 0..2\)"),
        (torch.full((2, 13), -1), "contains -1"),
        (torch.zeros(2, 12, dtype=torch.long), r"shape \(2, 12\), but x has \(2, 13\) tokens"),
        (None, "give modality_ids"),
    ],
)
def test_bad_modality_ids_get_a_clear_error(ids: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block()(tokens()[0], ids)


def test_bad_configs_get_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"unknown projections \['q_proj'\]; choose from"):
        mom.MambaConfig(d_model=8, split=frozenset({"q_proj"}))
    with pytest.raises(ValueError, match="d_model is 0"):
        mom.MambaConfig(d_model=0)
    with pytest.raises(TypeError, match="integers are needed"):
        block()(tokens()[0], torch.rand(2, 13))
    with pytest.raises(ValueError, match=r"document_ids has shape \(2, 3\)"):
        x, ids = tokens()
        block()(x, ids, document_ids=torch.zeros(2, 3))
