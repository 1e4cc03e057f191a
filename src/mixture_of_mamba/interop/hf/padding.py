"""Removes padding before the blocks, and restores it after them.

The blocks see the real tokens of a row side by side. Where no state is continued, they stand at the
right end, and the row restarts behind its padding: one call. A state must not pass through
padding, so that rows which continue one run from the left, in as many parts as there are different
lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...layers import MambaState

__all__ = ["fill_padding", "real_tokens", "run_without_padding"]

States = Sequence[MambaState]
#: (x (b, t, d), modality (b, t), starts (b, t) or None, states or None) -> (tensors, states)
Run = Callable[
    [Tensor, Tensor, Tensor | None, States | None], tuple[list[Tensor], list[MambaState]]
]


def real_tokens(attention_mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    """(b, t) bool, False at padding; None where all tokens are known to be real.

    Args:
        attention_mask: (b, s) of 0 and 1, s >= t; its last t columns are those of the tokens.
        shape: (b, t).
    """
    if attention_mask is None:
        return None
    batch, length = shape
    if attention_mask.ndim != 2 or attention_mask.shape[0] != batch:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; "
            f"({batch}, at least {length}) is needed"
        )
    if attention_mask.shape[1] < length:
        raise ValueError(
            f"attention_mask covers {attention_mask.shape[1]} tokens, but {length} were given"
        )
    real = attention_mask[:, attention_mask.shape[1] - length :] != 0
    # On other devices the question would make the host wait.
    known = real.device.type == "cpu" and not torch.compiler.is_compiling()
    return None if known and bool(real.all()) else real


def run_without_padding(
    run: Run,
    x: Tensor,
    modality_ids: Tensor,
    starts: Tensor | None,
    states: States | None,
    real: Tensor,
) -> tuple[list[Tensor], list[MambaState]]:
    """What `run` gives for the real tokens: tensors (b, t, d), and the states after them.

    At padding the tensors hold the value of the last real token before it in the call, or zero.
    """
    lengths, length = real.sum(1), real.shape[1]
    if states is None:
        order = torch.argsort(real.to(torch.int8), dim=1, stable=True)  # padding first
        begins = real & (real.long().cumsum(1) == 1)  # what padding left is forgotten here
        begins = begins if starts is None else begins | starts
        tensors, after = run(
            _take(x, order), _take(modality_ids, order), _take(begins, order), None
        )
        offset = length - lengths
        # A row of padding alone has seen nothing.
        some = lengths > 0
        after = [s.map(lambda v: torch.where(_like(some, v), v, 0)) for s in after]
    else:
        order = torch.argsort((~real).to(torch.int8), dim=1, stable=True)  # padding last
        left = None if starts is None else _take(starts, order)
        tensors, after = _by_length(
            run, _take(x, order), _take(modality_ids, order), left, states, lengths
        )
        offset = torch.zeros_like(lengths)
    place = real.long().cumsum(1) - 1
    index = torch.where(place < 0, -1, place + offset[:, None])
    return [fill_padding(v, index) for v in tensors], after


def fill_padding(x: Tensor, index: Tensor, before: Tensor | None = None) -> Tensor:
    """x (b, s, d) at `index` (b, t); `before` (b, d), or zero, where the index is negative."""
    taken = _take(x, index.clamp(min=0))
    other = torch.zeros_like(taken) if before is None else before[:, None].to(x.dtype)
    return torch.where((index >= 0)[..., None], taken, other)


def _by_length(
    run: Run,
    x: Tensor,
    modality_ids: Tensor,
    starts: Tensor | None,
    states: States,
    lengths: Tensor,
) -> tuple[list[Tensor], list[MambaState]]:
    """Rows of different lengths, real tokens at the left: all rows up to the shortest one's end,
    then the longer ones up to the next end, and so on, each from its own state."""
    after, parts, begin = list(states), [], 0
    for end in sorted(set(lengths.tolist()) - {0}):
        rows = (lengths >= end).nonzero()[:, 0]
        tensors, new = run(
            x[rows, begin:end],
            modality_ids[rows, begin:end],
            None if starts is None else starts[rows, begin:end],
            [state.map(lambda v, rows=rows: v[rows]) for state in after],
        )
        parts.append((rows, slice(begin, end), tensors))
        after = [
            MambaState(*(a.index_copy(0, rows, b.to(a.dtype)) for a, b in zip(old, s, strict=True)))
            for old, s in zip(after, new, strict=True)
        ]
        begin = end
    if not parts:  # nothing but padding: shapes come from a call of no consequence
        tensors, _ = run(x[:, :1], modality_ids[:, :1], None, None)
        return [torch.zeros_like(v) for v in tensors], after
    results = []
    for i in range(len(parts[0][2])):
        sample = parts[0][2][i]
        whole = sample.new_zeros(*x.shape[:2], sample.shape[-1])
        for rows, columns, tensors in parts:
            grid = (rows[:, None], torch.arange(columns.start, columns.stop, device=x.device))
            whole = whole.index_put(grid, tensors[i])
        results.append(whole)
    return results, after


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x (b, s, …) at index (b, t) along time."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, index]


def _like(flags: Tensor, x: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (x.ndim - 1))
