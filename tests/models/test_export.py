"""Exported programs: saved, loaded, and run on batches and lengths of other sizes."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from mixture_of_mamba import (
    Batch,
    MambaBlock,
    MambaConfig,
    Modality,
    ModelConfig,
    MultimodalModel,
    use_backend,
)
from mixture_of_mamba.interop.hf import MixtureOfMambaConfig, MixtureOfMambaForCausalLM
from mixture_of_mamba.layers import MambaState
from mixture_of_mamba.models import ModelState

BT = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
B = {0: Dim.DYNAMIC}
PORTABLE = {"selective_scan": "torch", "causal_conv1d": "torch", "modality_linear": "loop"}
#: (batch, time); the example, then what the program is called with. Around 8, 16 and 256 the
#: backends count other numbers of chunks.
EXAMPLE, OTHERS = (2, 6), [(3, 11), (1, 1), (5, 8), (2, 300)]

backends = pytest.mark.parametrize("named", [{}, PORTABLE], ids=["automatic", "portable"])


def round_trip(module: nn.Module, args: tuple[Any, ...], kwargs: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, args, kwargs, **options), file)
    file.seek(0)
    return torch.export.load(file).module()


def preferring(named: dict[str, str]) -> contextlib.AbstractContextManager[None]:
    return use_backend(**named) if named else contextlib.nullcontext()


def make(**fields: Any) -> MultimodalModel:
    modalities = [Modality("text", "discrete", 9), Modality("image", "discrete", 5)]
    shape: dict[str, Any] = {"d_model": 8, "n_layers": 2, "d_state": 4, "head_dim": 4}
    return MultimodalModel(ModelConfig(**shape | fields, modalities=modalities)).eval()


def ids(b: int, t: int) -> Tensor:
    return torch.randint(2, (b, t))


def batch(b: int, t: int) -> Batch:
    tokens, documents = torch.randint(5, (b, t)), (torch.rand(b, t) < 0.2).cumsum(1)
    return Batch(tokens=tokens, modality_ids=ids(b, t), document_ids=documents)


def assert_equal(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "start",
    ["import torch, mixture_of_mamba", "from mixture_of_mamba import MultimodalModel"],
)
def test_another_process_loads_what_was_saved(start: str, tmp_path: Path) -> None:
    model = make()
    torch.export.save(torch.export.export(model, (batch(2, 6),)), tmp_path / "model.pt2")
    code = f"{start}\nimport sys, torch\ntorch.export.load(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt2")], check=True)


@pytest.mark.parametrize(("named", "strict"), [({}, False), ({}, True), (PORTABLE, False)], ids=str)
def test_block(named: dict[str, str], strict: bool) -> None:
    block = MambaBlock(MambaConfig(d_model=8, n_modalities=2, d_state=4))

    def call(f: Callable[..., Any], b: int, t: int, x: Tensor, m: Tensor, doc: Tensor) -> Any:
        return f(x, m, document_ids=doc, return_state=True)

    def inputs(b: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(b, t, 8), ids(b, t), (torch.rand(b, t) < 0.2).cumsum(1)

    x, m, documents = inputs(*EXAMPLE)
    with preferring(named):
        program = round_trip(
            block,
            (x, m),
            {"document_ids": documents, "return_state": True},
            dynamic_shapes={"x": BT, "modality_ids": BT, "document_ids": BT, "return_state": None},
            strict=strict,
        )
    for b, t in OTHERS:
        given = inputs(b, t)
        found, wanted = (call(f, b, t, *given) for f in (program, block))
        assert type(found[1]) is MambaState
        assert_equal(found, wanted)


@pytest.mark.parametrize(("named", "dynamic"), [({}, False), (PORTABLE, True)], ids=str)
def test_block_is_one_graph(named: dict[str, str], dynamic: bool) -> None:
    block = MambaBlock(MambaConfig(d_model=8, n_modalities=2, d_state=4))
    torch._dynamo.reset()
    with preferring(named):
        compiled = torch.compile(block, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for b, t in (EXAMPLE, (3, 11)):
            x, m = torch.randn(b, t, 8), ids(b, t)
            found, wanted = (
                torch.autograd.grad(f(x, m).square().sum(), list(block.parameters()))
                for f in (compiled, block)
            )
            assert_equal(found, wanted)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_ids_out_of_range_are_an_error_of_the_graph(backend: str) -> None:
    block = MambaBlock(MambaConfig(d_model=8, n_modalities=2, d_state=4, split="x_proj"))
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    x, m = torch.randn(2, 6, 8), ids(2, 6)
    with torch.no_grad():
        assert_equal(compiled(x, m), block(x, m))
        m[1, 3] = 2
        with pytest.raises(RuntimeError, match=r"ids outside 0\.\.1"):
            compiled(x, m)


class Advance(nn.Module):
    """`advance` as a module, as export wants it."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, modality_ids: Tensor, state: ModelState) -> Any:
        return self.model.advance(tokens, modality_ids, state)


@backends
def test_advance(named: dict[str, str]) -> None:
    """Not strictly: torch cannot trace the making of a ModelState there."""
    model = make()

    def inputs(b: int, t: int) -> tuple[Tensor, Tensor, ModelState]:
        state = model.advance(torch.randint(5, (b, 3)), ids(b, 3))[1]
        return torch.randint(5, (b, t)), ids(b, t), state

    blocks = tuple(MambaState(B, B) for _ in range(2))  # type: ignore[arg-type]
    with preferring(named):
        program = round_trip(
            Advance(model), inputs(*EXAMPLE), None, dynamic_shapes=(BT, BT, [blocks, B, None])
        )
    for b, t in OTHERS:
        given = inputs(b, t)
        (logits, after), (wanted, expected) = program(*given), model.advance(*given)
        assert after.config == model.config
        assert_equal(logits, wanted)
        assert_equal((*after.blocks, after.position), (*expected.blocks, expected.position))


@pytest.mark.parametrize(
    ("named", "strict", "fields"),
    [
        *(({}, False, {}), ({}, True, {}), (PORTABLE, False, {})),
        *(({}, False, {"vocabulary": "separate"}), ({}, False, {"mixer": "attention"})),
    ],
    ids=str,
)
def test_losses_of_a_model(named: dict[str, str], strict: bool, fields: Any) -> None:
    model = make(**fields)
    with preferring(named):
        program = round_trip(
            *(model, (batch(*EXAMPLE),), None),
            dynamic_shapes=([BT, BT, {}, BT, None, None],),
            strict=strict,
        )
    for b, t in OTHERS:
        given = batch(b, t)
        found, wanted = program(given), model(given)
        assert_equal((found.loss, found.totals), (wanted.loss, wanted.totals))


@pytest.mark.parametrize(("strict", "masked"), [(False, True), (True, False)])
def test_the_class_for_transformers(strict: bool, masked: bool) -> None:
    config = MixtureOfMambaConfig(
        modalities=["text:discrete:20", "image:discrete:10"], hidden_size=8, num_hidden_layers=2
    )
    model = MixtureOfMambaForCausalLM(config).eval()

    def inputs(b: int, t: int) -> dict[str, Any]:
        given: dict[str, Any] = {"input_ids": torch.randint(30, (b, t)), "use_cache": False}
        if masked:
            given["attention_mask"] = torch.ones(b, t, dtype=torch.int64)
            given["attention_mask"][0, : t // 2] = 0
        return given

    example = inputs(*EXAMPLE)
    shapes = {name: None if name == "use_cache" else BT for name in example}
    program = round_trip(model, (), example, dynamic_shapes=shapes, strict=strict)
    for b, t in OTHERS:
        given = inputs(b, t)
        assert_equal(program(**given).logits, model(**given).logits)
