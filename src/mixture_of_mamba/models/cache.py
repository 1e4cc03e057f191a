"""What a model remembers of the tokens so far: one state per block, of constant size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from ..files import replacing
from ..layers import MambaState
from .config import Modality, ModelConfig

if TYPE_CHECKING:
    from .model import MultimodalModel

__all__ = ["Cache", "check_state", "fingerprint"]

# Fields of the config that give a state its shape or its meaning.
_MEANING = ("mixer", "d_model", "n_layers", "expand", "d_state", "d_conv", "split", "modalities")


@dataclass(frozen=True)
class Cache:
    """State of every block after some tokens of `b` sequences; its size does not grow with them.

    A value: continuing from a cache leaves it as it was. So a snapshot is a second name for it, a
    rewind is using the older one again, and a fork is `expand`.

    Attributes:
        config: of the model that made it.
        blocks: one state per block.
        position: (b,) int64, tokens of each sequence's present document so far.
        document: (b,) int64, id of that document; None where no document ids were given.
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
    ) -> Cache:
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

    def map(self, function: Callable[[Tensor], Tensor]) -> Cache:
        """The function applied to every tensor; it must keep the batch first."""
        return replace(
            self,
            blocks=tuple(block.map(function) for block in self.blocks),
            position=function(self.position),
            document=None if self.document is None else function(self.document),
        )

    def detach(self) -> Cache:
        """The same values without their history, for truncated backpropagation."""
        return self.map(torch.Tensor.detach)

    def clone(self) -> Cache:
        """A copy that shares no memory with this one."""
        return self.map(torch.Tensor.clone)

    def select(self, indices: Sequence[int] | Tensor) -> Cache:
        """The sequences `indices` as a batch of their own; an index may repeat (beams, forks)."""
        rows = torch.as_tensor(indices, device=self.position.device)
        return self.map(lambda x: x[rows])

    def expand(self, copies: int) -> Cache:
        """Fork: each sequence `copies` times, copies of one sequence side by side."""
        if copies < 1:
            raise ValueError(f"cannot fork into {copies} copies; give at least 1")
        return self.map(lambda x: x.repeat_interleave(copies, 0))

    def put(self, indices: Sequence[int] | Tensor, other: Cache) -> Cache:
        """This cache with the sequences at `indices` replaced by those of `other`."""
        rows = torch.as_tensor(indices, device=self.position.device)
        check_state(other, self.config, len(rows), self.dtype)
        pairs = zip(self.blocks, other.blocks, strict=True)
        document = None
        if self.document is not None and other.document is not None:
            document = self.document.index_copy(0, rows, other.document)
        return replace(
            self,
            blocks=tuple(
                type(a)(*(x.index_copy(0, rows, y) for x, y in zip(a, b, strict=True)))
                for a, b in pairs
            ),
            position=self.position.index_copy(0, rows, other.position),
            document=document,
        )

    @classmethod
    def concatenate(cls, caches: Sequence[Cache]) -> Cache:
        """Sequences of several caches as one batch."""
        if not caches:
            raise ValueError("no caches to concatenate; give at least one")
        first = caches[0]
        for other in caches[1:]:
            check_state(other, first.config, other.batch, first.dtype)
        columns = zip(*(cache.blocks for cache in caches), strict=True)
        documents = [cache.document for cache in caches if cache.document is not None]
        return replace(
            first,
            blocks=tuple(type(c[0])(*map(torch.cat, zip(*c, strict=True))) for c in columns),
            position=torch.cat([cache.position for cache in caches]),
            document=torch.cat(documents) if len(documents) == len(caches) else None,
        )

    def after(
        self, blocks: Sequence[MambaState], document_ids: Tensor | None, length: int
    ) -> Cache:
        """The cache that follows this one after `length` more tokens left `blocks`."""
        if not length:
            return self
        position, document = self.position + length, self.document
        if document_ids is not None:
            position = _positions(self.position, self.document, document_ids)
            document = document_ids[:, -1]
        return Cache(self.config, tuple(blocks), position, document)

    def save(self, path: str | Path, model: MultimodalModel | None = None) -> None:
        """Write one safetensors file; with the model, its fingerprint too (see `load`)."""
        tensors = {"position": self.position}
        if self.document is not None:
            tensors["document"] = self.document
        for i, block in enumerate(self.blocks):
            tensors |= {f"{i}.{name}": getattr(block, name) for name in block._fields}
        metadata = {"config": json.dumps(self.config.to_dict())}
        if model is not None:
            metadata["model"] = fingerprint(model)
        tensors = {k: v.contiguous() for k, v in _unshared(tensors).items()}
        metadata["sha256"] = _digest(tensors)
        with replacing(path) as part:
            save_file(tensors, part, metadata)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: MultimodalModel | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Cache:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: the model that is to continue; checked against the one that saved the state.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, or one that another model (or other weights) made.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no saved state at {path}")
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or truncated ({error}); save it again") from error
        if "config" not in metadata or "position" not in tensors:
            raise ValueError(f"{path} is no saved state; give a file that Cache.save wrote")
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
        names = MambaState._fields
        wanted = [f"{i}.{name}" for i in range(config.n_layers) for name in names]
        if missing := [name for name in wanted if name not in tensors]:
            raise ValueError(f"{path} is incomplete: {', '.join(missing)} missing; save it again")
        if "sha256" in metadata and metadata["sha256"] != _digest(tensors):
            raise ValueError(f"{path} is damaged: its numbers are not those saved; save it again")
        blocks = tuple(
            MambaState(*(tensors[f"{i}.{name}"] for name in names)) for i in range(config.n_layers)
        )
        cache = cls(config, blocks, tensors["position"], tensors.get("document"))
        if model is not None:
            check_state(cache, model.config, cache.batch, None)
            if metadata.get("model", fingerprint(model)) != fingerprint(model):
                raise ValueError(
                    f"{path} was made by a model of this shape with other weights; "
                    "load the weights that it was saved with, or prefill again"
                )
        return cache


register_pytree_node(  # a tree of tensors for wrappers and exported programs
    Cache,
    lambda cache: ([cache.blocks, cache.position, cache.document], cache.config),
    lambda children, config: Cache(config, *children),
    serialized_type_name="mixture_of_mamba.Cache",
    to_dumpable_context=lambda config: config.to_dict(),
    from_dumpable_context=ModelConfig.from_dict,
    flatten_with_keys_fn=lambda cache: (
        [(GetAttrKey(n), getattr(cache, n)) for n in ("blocks", "position", "document")],
        cache.config,
    ),
)


torch.serialization.add_safe_globals([Cache, ModelConfig, Modality, MambaState, frozenset])


def check_state(
    state: Sequence[MambaState] | Cache,
    config: ModelConfig,
    batch: int,
    dtype: torch.dtype | None,
) -> None:
    """Hold a state against the model and the batch that are to continue from it.

    Args:
        state: one state per block.
        config: of the model.
        batch: number of sequences.
        dtype: of the model's activations; None: any.

    Raises:
        ValueError: the state is of another model or another batch.
        TypeError: the state is of another dtype.
    """
    if isinstance(state, Cache) and state.config is not config:
        other = state.config
        wrong = [n for n in _MEANING if _plain(other, n) != _plain(config, n)]
        if wrong:
            raise ValueError(
                "the state is of another model: "
                + "; ".join(
                    f"{n} {_plain(other, n)} there, {_plain(config, n)} here" for n in wrong
                )
                + "; prefill the prompt with this model"
            )
    if len(state) != config.n_layers:
        raise ValueError(f"the state has {len(state)} blocks; this model has {config.n_layers}")
    if config.mixer != "mamba":
        return
    c = config.block
    for i, block in enumerate(state):
        shapes = tuple(map(tuple, (block.conv.shape, block.ssm.shape)))
        wanted = ((batch, c.d_conv - 1, c.d_inner), (batch, c.d_inner, c.d_state))
        if shapes != wanted:
            what = "batch" if [s[1:] for s in shapes] == [s[1:] for s in wanted] else "model"
            raise ValueError(
                f"the state is of another {what}: block {i} has conv {shapes[0]} and ssm "
                f"{shapes[1]}, but {wanted[0]} and {wanted[1]} are needed"
                + ("; see Cache.select and Cache.expand" if what == "batch" else "")
            )
        if dtype is not None and block.conv.dtype != dtype:
            raise TypeError(
                f"the state is {block.conv.dtype}, but the model computes in {dtype}; "
                "prefill again in one dtype for both"
            )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and every byte."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(model: MultimodalModel) -> str:
    """A short name of a model's weights: a hash over up to 64 values of each parameter."""
    import hashlib

    digest = hashlib.sha256()
    for name, p in sorted(model.state_dict().items()):
        flat = p.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(p.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _positions(position: Tensor, document: Tensor | None, document_ids: Tensor) -> Tensor:
    """(b,) tokens of the last document up to the end of `document_ids` (b, t)."""
    last = document_ids[:, -1:]
    run = (document_ids == last).flip(1).to(torch.int64).cumprod(1).sum(1)
    continues = run == document_ids.shape[1]
    if document is not None:
        continues = continues & (document == last[:, 0])
    return torch.where(continues, position + run, run)


def _plain(config: ModelConfig, name: str) -> Any:
    value = getattr(config, name)
    if name == "modalities":
        return [f"{m.name}:{m.kind}:{m.size}" for m in value]
    return sorted(value) if name == "split" else value


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory, as the blocks of Cache.zeros do."""
    seen: set[int] = set()
    for name, x in tensors.items():
        if x.numel() and x.data_ptr() in seen:
            tensors[name] = x.clone()
        seen.add(x.data_ptr())
    return tensors
