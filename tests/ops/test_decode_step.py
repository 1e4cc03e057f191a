"""The decode step, natively and in torch, against the blocks run token by token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixture_of_mamba import BackendError, MambaBlock, MambaConfig, Routing
from mixture_of_mamba.layers.fused import block_weights
from mixture_of_mamba.ops import native
from mixture_of_mamba.ops.decode_step import FORMATS, DecodeStep, cpu
from mixture_of_mamba.ops.decode_step.pace import Pace

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

STEPS, VOCABULARY = 5, 37
CASES = {
    "dense": (1, {"split": frozenset()}),
    "mixture": (3, {"n_modalities": 3}),
    "part split, biases": (
        6,
        {"n_modalities": 2, "split": frozenset({"dt_proj", "out_proj"}), "bias": True},
    ),
    "odd sizes": (5, {"n_modalities": 2, "d_state": 5, "conv_bias": False, "d_conv": 3}),
    "many sequences": (19, {"n_modalities": 2, "d_state": 20}),
}


class Model:
    """Two blocks, a norm and a head, and the same as a native step."""

    def __init__(
        self, options: dict, form: str = "float32", width: int = 38, backend: str = "cpu"
    ) -> None:
        torch.manual_seed(0)
        self.config = MambaConfig(d_model=width, **options)
        self.blocks = [MambaBlock(self.config) for _ in range(2)]
        for block in self.blocks:
            for p in block.parameters():
                p.requires_grad_(False).add_(0.05 * torch.randn_like(p))
        self.norm, self.head = torch.rand(width) + 0.5, torch.randn(VOCABULARY, width)
        self.step = DecodeStep(
            [block_weights(b) for b in self.blocks],
            eps=self.config.norm_eps,
            final_norm=self.norm,
            head=self.head,
            weights=form,
            backend=backend,
        )

    def logits(self, x: Tensor, modality: Tensor) -> Tensor:
        """(b, t, d_model), (b, t) -> (b, t, v) by the blocks, all tokens at once."""
        routing = Routing.build(modality, self.config.n_modalities)
        rows = routing.to_rows(x)
        for block in self.blocks:
            rows = block(rows, routing=routing)
        return F.rms_norm(routing.to_time(rows), (38,), self.norm, 1e-5) @ self.head.t()


def tokens(batch: int, modalities: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, STEPS, 38), torch.randint(modalities, (batch, STEPS))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("batch,options", CASES.values(), ids=CASES.keys())
def test_steps_equal_the_blocks(batch: int, options: dict, backend: str) -> None:
    model = Model(options, backend=backend)
    x, modality = tokens(batch, model.config.n_modalities)
    expected = model.logits(x, modality)
    states = model.step.new_states(batch)
    for t in range(STEPS):
        found = model.step(x[:, t], modality[:, t], states)
        torch.testing.assert_close(found, expected[:, t], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form,limit", [("float32", 1e-5), ("bfloat16", 1e-2), ("int8", 3e-2)])
def test_accuracy_of_the_formats(form: str, limit: float) -> None:
    model = Model(CASES["mixture"][1], form)
    x, modality = tokens(4, 3)
    expected = model.logits(x, modality)
    states = model.step.new_states(4)
    found = torch.stack([model.step(x[:, t], modality[:, t], states) for t in range(STEPS)], 1)
    assert float((found - expected).norm() / expected.norm()) < limit


@pytest.mark.parametrize("form,limit", [("float32", 2e-6), ("bfloat16", 5e-5), ("int8", 5e-5)])
@pytest.mark.parametrize("batch", [5, 16, 53])
@pytest.mark.parametrize("width", [38, 64, 150])
def test_a_batch_equals_its_sequences_alone(
    form: str, limit: float, batch: int, width: int
) -> None:
    """Few and many sequences of a modality take different ways (csrc/gemm.h, amx_gemm.h)."""
    model = Model({"n_modalities": 2}, form, width)
    x, modality = torch.randn(batch, width), torch.arange(batch) % 7 % 2  # unequal groups
    found = model.step(x, modality, model.step.new_states(batch))
    alone = [
        model.step(x[i, None], modality[i, None], model.step.new_states(1)) for i in range(batch)
    ]
    expected = torch.cat(alone)
    assert float((found - expected).norm() / expected.norm()) < limit


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("batch", [3, 40])
def test_nan_stays_in_its_sequence(batch: int, form: str) -> None:
    model = Model({"n_modalities": 2}, form)
    x, modality = torch.randn(batch, 38), torch.arange(batch) % 2
    expected = model.step(x, modality, model.step.new_states(batch))
    x[1, 5] = float("nan")
    states = model.step.new_states(batch)
    found = model.step(x, modality, states)
    assert found[1].isnan().all()
    others = torch.arange(batch) != 1
    assert torch.equal(found[others], expected[others])
    assert not any(part[others].isnan().any() for state in states for part in state)


def test_an_empty_batch_is_empty() -> None:
    step = Model({"n_modalities": 2}).step
    assert step(torch.empty(0, 38), torch.empty(0).long(), step.new_states(0)).shape == (0, 37)


def test_torch_products_and_steps_leave_each_other_alone() -> None:
    """torch's bfloat16 products use the tile unit of some CPUs too."""
    model = Model(CASES["mixture"][1], "bfloat16")
    x, modality = torch.randn(40, 38), torch.arange(40) % 3
    left, right = torch.randn(96, 200).bfloat16(), torch.randn(200, 130).bfloat16()
    product, logits = left @ right, model.step(x, modality, model.step.new_states(40))
    for _ in range(3):
        assert torch.equal(left @ right, product)
        assert torch.equal(model.step(x, modality, model.step.new_states(40)), logits)


def test_int8_reads_a_quarter_of_the_bytes() -> None:
    sizes = [Model(CASES["mixture"][1], form).step.weight_bytes for form in FORMATS]
    assert sizes[0] > 1.8 * sizes[1] > 3 * sizes[2]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_bytes_are_those_of_the_projections_and_the_head(backend: str) -> None:
    model = Model(CASES["mixture"][1], backend=backend)
    parts = [p for b in model.blocks for name, p in b.named_parameters() if "_proj." in name]
    assert len(parts) == 2 * 5  # dt_proj has a bias
    assert model.step.weight_bytes == sum(p.nbytes for p in (*parts, model.head))


def test_goes_on_from_the_states_of_a_prefill() -> None:
    model = Model(CASES["mixture"][1])
    x, modality = tokens(2, 3)
    routing = Routing.build(modality[:, :3], 3)
    rows, states = routing.to_rows(x[:, :3]), []
    for block in model.blocks:
        rows, after = block(rows, routing=routing, return_state=True)
        states.append((after.conv.clone(), after.ssm.clone()))
    expected = model.logits(x, modality)
    for t in (3, 4):
        found = model.step(x[:, t], modality[:, t], states)
        torch.testing.assert_close(found, expected[:, t], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("batch", [6, 70])
def test_threads_do_not_change_the_result(
    batch: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "PRODUCTS", 1)  # threads for the smallest model
    monkeypatch.setattr(Pace, "threads", lambda pace: pace.most)
    model = Model(CASES["mixture"][1], form)
    x, modality = tokens(batch, 3)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert model.step.prepared.most_threads(batch) == threads
        states = model.step.new_states(batch)
        found.append([model.step(x[:, t], modality[:, t], states) for t in range(STEPS)])
    torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_tiny_model_is_stepped_by_one_thread() -> None:
    """Waking a thread costs more than it does."""
    model = Model(CASES["mixture"][1])
    products = sum(p.weight[0].numel() for p in model.step.prepared.packed)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        enough = -(-2 * cpu.PRODUCTS // products)
        assert [model.step.prepared.most_threads(b) for b in (1, enough - 1, enough)] == [1, 1, 2]
    finally:
        torch.set_num_threads(before)


def test_the_torch_backend_takes_weights_as_they_are() -> None:
    with pytest.raises(BackendError, match="as they are, in float32, not in int8; 'cpu' can"):
        Model(CASES["mixture"][1], "int8", backend="torch")
    step = Model(CASES["mixture"][1], backend="torch").step
    with pytest.raises(ValueError, match=r"modality must be in 0\.\.2, got \[0, 3\]"):
        step(torch.randn(2, 38), torch.tensor([0, 3]), step.new_states(2))
    with pytest.raises(BackendError, match=r"'reference'; choose from \['cpu', 'torch'\]"):
        Model(CASES["mixture"][1], backend="reference")


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_steps_of_trainable_weights_leave_no_graph(backend: str) -> None:
    block, norm = MambaBlock(MambaConfig(d_model=38, n_modalities=2)), torch.ones(38)
    norm.requires_grad_()
    step = DecodeStep([block_weights(block)], eps=1e-5, final_norm=norm, backend=backend)
    states, modality = step.new_states(2), torch.tensor([0, 1])
    for _ in range(2):
        y = step(torch.randn(2, 38), modality, states)
        assert not any(part.requires_grad for part in (y, *states[0]))


def test_wrong_input_is_said() -> None:
    model = Model(CASES["mixture"][1])
    states = model.step.new_states(2)
    x, modality = torch.randn(2, 38), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"modality must be in 0\.\.2"):
        model.step(x, modality + 3, states)
    with pytest.raises(ValueError, match="x has shape"):
        model.step(x[:, 1:], modality, states)
    with pytest.raises(ValueError, match="float32 on cpu is needed"):
        model.step(x, modality, [(c.double(), s) for c, s in states])
    with pytest.raises(ValueError, match="1 states, but 2 blocks"):
        model.step(x, modality, states[:1])
    with pytest.raises(ValueError, match="choose from"):
        Model(CASES["mixture"][1], "int4")
