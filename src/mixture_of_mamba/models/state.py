"""What a model remembers of the tokens so far: one state per block, of constant size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from ..batch import Batch
from ..layers import MambaState
from .config import Modality, ModelConfig
from .diffusion_config import DiffusionConfig
from .state_checks import check_blocks, check_origin
from .state_files import check_fingerprint, read_state, write_state

__all__ = ["Cache", "ModelState", "check_state", "state_after"]


class _Model(Protocol):
    """What is needed of a model: its config and its weights."""

    config: ModelConfig

    def state_dict(self) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class ModelState:
    """State of every block after some tokens of `b` sequences; its size does not grow with them.

    Immutable: continuing from a state leaves it as it was. Keep a reference to take a snapshot, use
    an older state again to rewind, and `expand` to fork.

    Attributes:
        config: of the model that made it.
        blocks: one state per block.
        position: (b,) int64, tokens of each sequence's present document so far.
        document: (b,) int64, id of that document; None if no document ids were given.
    """

    config: ModelConfig
    blocks: tuple[MambaState, ...]
    position: Tensor
    document: Tensor | None = None

    @classmethod
    def zeros(
        cls,
        config: ModelConfig,
        batch: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> ModelState:
        """The state before the first token, which is what no state means (Mamba models)."""
        block = config.block
        one = MambaState.zeros(
            batch, block.d_inner, block.d_state, block.d_conv, dtype=dtype, device=device
        )
        position = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(config, (one,) * config.n_layers, position)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> MambaState:
        return self.blocks[index]

    def __iter__(self) -> Iterator[MambaState]:
        return iter(self.blocks)

    @property
    def batch(self) -> int:
        """Number of sequences `b`."""
        return self.position.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations; the scan state is float32 next to bfloat16 ones."""
        return self.blocks[0][0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(x.numel() * x.element_size() for block in self.blocks for x in block)

    def map(self, function: Callable[[Tensor], Tensor]) -> ModelState:
        """The function applied to every tensor; it must keep the batch first."""
        return replace(
            self,
            blocks=tuple(block.map(function) for block in self.blocks),
            position=function(self.position),
            document=None if self.document is None else function(self.document),
        )

    def detach(self) -> ModelState:
        """The same values without their history, for truncated backpropagation."""
        return self.map(torch.Tensor.detach)

    def clone(self) -> ModelState:
        """A copy that shares no memory with this one."""
        return self.map(torch.Tensor.clone)

    def select(self, indices: Sequence[int] | Tensor) -> ModelState:
        """The sequences `indices` as a batch of their own; an index may repeat (beams, forks)."""
        chosen = torch.as_tensor(indices, device=self.position.device)
        return self.map(lambda x: x[chosen])

    def expand(self, copies: int) -> ModelState:
        """Fork: each sequence `copies` times, copies of one sequence side by side."""
        if copies < 1:
            raise ValueError(f"cannot fork into {copies} copies; give at least 1")
        return self.map(lambda x: x.repeat_interleave(copies, 0))

    def put(self, indices: Sequence[int] | Tensor, other: ModelState) -> ModelState:
        """This state with the sequences at `indices` replaced by those of `other`."""
        chosen = torch.as_tensor(indices, device=self.position.device)
        check_state(other, self.config, len(chosen), self.dtype)
        return _merge([self, other], lambda pair: pair[0].index_copy(0, chosen, pair[1]))

    @classmethod
    def concatenate(cls, states: Sequence[ModelState]) -> ModelState:
        """Sequences of several states as one batch."""
        if not states:
            raise ValueError("no states to concatenate; give at least one")
        first = states[0]
        for other in states[1:]:
            check_state(other, first.config, other.batch, first.dtype)
        return _merge(states, torch.cat)

    def after(
        self, blocks: Sequence[MambaState], document_ids: Tensor | None, length: int
    ) -> ModelState:
        """The state that follows this one after `length` more tokens left `blocks`."""
        if not length:
            return self
        position, document = self.position + length, self.document
        if document_ids is not None:
            position = _positions(self.position, self.document, document_ids)
            document = document_ids[:, -1]
        return ModelState(self.config, tuple(blocks), position, document)

    def save(self, path: str | Path, model: _Model | None = None) -> None:
        """Write one safetensors file; with the model, its fingerprint too (see `load`)."""
        tensors = {"position": self.position}
        if self.document is not None:
            tensors["document"] = self.document
        for i, block in enumerate(self.blocks):
            tensors |= {f"{i}.{name}": getattr(block, name) for name in block._fields}
        write_state(path, self.config, tensors, None if model is None else model.state_dict())

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: _Model | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> ModelState:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: the model that is to continue; compared to the one that saved the state.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, or one that another model (or other weights) made.
        """
        config, tensors, saved = read_state(path, device)
        blocks = tuple(
            MambaState(*(tensors[f"{i}.{name}"] for name in MambaState._fields))
            for i in range(config.n_layers)
        )
        state = cls(config, blocks, tensors["position"], tensors.get("document"))
        if model is not None:
            check_state(state, model.config, state.batch, None)
            check_fingerprint(path, saved, model.state_dict())
        return state


#: The former name.
Cache = ModelState

# A tree of tensors for wrappers and exported programs; the type's name in saved programs is older.
register_pytree_node(
    ModelState,
    lambda state: ([state.blocks, state.position, state.document], state.config),
    lambda children, config: ModelState(config, *children),
    serialized_type_name="mixture_of_mamba.Cache",
    to_dumpable_context=lambda config: config.to_dict(),
    from_dumpable_context=ModelConfig.from_dict,
    flatten_with_keys_fn=lambda state: (
        [(GetAttrKey(n), getattr(state, n)) for n in ("blocks", "position", "document")],
        state.config,
    ),
)
# What torch.save wrote of a state is read back without running a pickle's code, older names too.
torch.serialization.add_safe_globals(
    [
        ModelState,
        (ModelState, "mixture_of_mamba.models.cache.Cache"),
        ModelConfig,
        DiffusionConfig,
        Modality,
        MambaState,
        frozenset,
    ]
)


def check_state(
    state: Sequence[MambaState] | ModelState,
    config: ModelConfig,
    batch: int,
    dtype: torch.dtype | None,
) -> None:
    """Compare a state to the model and the batch that are to continue from it.

    Args:
        state: one state per block.
        config: of the model.
        batch: number of sequences.
        dtype: of the model's activations; None: any.

    Raises:
        ValueError: the state is of another model or another batch.
        TypeError: the state is of another dtype.
    """
    if isinstance(state, ModelState):
        check_origin(state.config, config)
        state = state.blocks
    check_blocks(state, config, batch, dtype)


def state_after(
    config: ModelConfig,
    before: Sequence[MambaState] | ModelState | None,
    blocks: Sequence[MambaState],
    batch: Batch,
) -> ModelState | None:
    """What follows a state once a batch left `blocks`; None for the transformer baselines."""
    if config.mixer != "mamba":
        return None
    if not isinstance(before, ModelState):
        position = torch.zeros(batch.shape[0], dtype=torch.int64, device=batch.tokens.device)
        before = ModelState(config, tuple(before or blocks), position)
    return before.after(blocks, batch.document_ids, batch.shape[1])


def _merge(
    states: Sequence[ModelState], function: Callable[[tuple[Tensor, ...]], Tensor]
) -> ModelState:
    """A state of which each tensor is `function` of those of all states."""
    columns = zip(*states, strict=True)
    documents = tuple(s.document for s in states if s.document is not None)
    return replace(
        states[0],
        blocks=tuple(MambaState(*map(function, zip(*c, strict=True))) for c in columns),
        position=function(tuple(s.position for s in states)),
        document=function(documents) if len(documents) == len(states) else None,
    )


def _positions(position: Tensor, document: Tensor | None, document_ids: Tensor) -> Tensor:
    """(b,) tokens of the last document up to the end of `document_ids` (b, t)."""
    last = document_ids[:, -1:]
    run = (document_ids == last).flip(1).to(torch.int64).cumprod(1).sum(1)
    continues = run == document_ids.shape[1]
    if document is not None:
        continues = continues & (document == last[:, 0])
    return torch.where(continues, position + run, run)
