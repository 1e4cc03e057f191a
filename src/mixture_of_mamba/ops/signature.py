"""The arguments of an operator, said once: as the fields of its input record.

A custom operator takes tensors and numbers one by one, and so do its fake and its derivatives. Here
they are derived from the record that the backends read: the schema, the record from the arguments,
and which of them get a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast, get_type_hints

from torch import Tensor

from .routing import RowIndex

__all__ = ["Signature", "arguments", "schema"]

Record = TypeVar("Record", bound=tuple[Any, ...])

_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "SymInt",
    bool: "bool",
    float: "float",
}


def arguments(record: tuple[Any, ...]) -> list[Any]:
    """The values of a record one by one, those of the records inside it in their place."""
    found: list[Any] = []
    for value in record:
        if isinstance(value, RowIndex):
            found.extend(value.arguments)
        elif isinstance(value, tuple):
            found.extend(arguments(value))
        else:
            found.append(value)
    return found


def schema(record: type[tuple[Any, ...]]) -> str:
    """The record's fields as the parameters of an operator: "Tensor x, Tensor? bias, …"."""
    return ", ".join(
        f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in _Layout.of(record).parameters()
    )


class Signature(Generic[Record]):
    """Between an op's input record (a NamedTuple) and the arguments of its operators.

    Args:
        inputs: the record; a field may be a record, or the row index.
        gradients: record of the gradients; its fields are named like the inputs that get them.
    """

    def __init__(self, inputs: type[Record], gradients: type[tuple[Any, ...]]) -> None:
        self._layout = _Layout.of(inputs)
        parameters = list(self._layout.parameters())
        leaves = {name for name, _ in _Layout.of(gradients).parameters()}
        self.schema = schema(inputs)
        self.gradients = f"({', '.join(['Tensor'] * len(leaves))})"
        self._is_leaf = [name in leaves for name, _ in parameters]
        self._is_tensor = [kind in (Tensor, Tensor | None) for _, kind in parameters]

    def bind(self, values: Sequence[Any]) -> Record:
        """The record from the operator's arguments."""
        return cast(Record, self._layout.bind(iter(values)))

    def save(self, ctx: Any, values: Sequence[Any], *others: Tensor) -> None:
        """Keep a call for its backward: the arguments, and tensors besides."""
        pairs = list(zip(values, self._is_tensor, strict=True))
        ctx.save_for_backward(*others, *(v for v, tensor in pairs if tensor))
        ctx.numbers = [v for v, tensor in pairs if not tensor]

    def saved(self, ctx: Any) -> tuple[list[Tensor], list[Any]]:
        """What `save` kept: the other tensors, and the arguments."""
        tensors = ctx.saved_tensors  # once: recomputed activations are unpacked a single time
        others = len(tensors) - sum(self._is_tensor)
        kept, numbers = iter(tensors[others:]), iter(ctx.numbers)
        values = [next(kept if tensor else numbers) for tensor in self._is_tensor]
        return list(tensors[:others]), values

    def dense(self, gradients: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
        """Gradients as an operator returns them: empty tensors for absent ones."""
        return tuple(like.new_empty(0) if g is None else g for g in arguments(gradients))

    def fake(self, values: Sequence[Any], like: Tensor) -> tuple[Tensor, ...]:
        """What the operator of the gradients returns, without values.

        Not a list: torch.autograd.grad(…, is_grads_batched=True) calls such an op once per entry.
        """
        leaves = (v for v, leaf in zip(values, self._is_leaf, strict=True) if leaf)
        return tuple(like.new_empty(0) if v is None else v.new_empty(v.shape) for v in leaves)

    def by_argument(
        self, gradients: Sequence[Tensor], values: Sequence[Any]
    ) -> list[Tensor | None]:
        """One gradient for each argument, None where there is none."""
        found = iter(gradients)
        given = [next(found) if leaf else None for leaf in self._is_leaf]
        return [g if v is not None else None for g, v in zip(given, values, strict=True)]


class _Layout(NamedTuple):
    """A record and its fields: a type of _SCHEMA_TYPES, or the layout of a record."""

    record: type[Any]
    fields: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, record: type[Any]) -> _Layout:
        hints = get_type_hints(record).items()
        nested = {kind for _, kind in hints if kind is RowIndex or _is_tuple(kind)}
        return cls(record, tuple((n, cls.of(k) if k in nested else k) for n, k in hints))

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Name and type of each argument."""
        for name, kind in self.fields:
            if isinstance(kind, _Layout):
                yield from kind.parameters()
            else:
                yield name, kind

    def bind(self, values: Iterator[Any]) -> Any:
        """The record of the next values."""
        found = (k.bind(values) if isinstance(k, _Layout) else next(values) for _, k in self.fields)
        return self.record(*found)


def _is_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple)
