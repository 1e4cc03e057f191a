"""Number and digest of the token ids that a state has seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .states import kept_by

__all__ = ["add_seen", "already_seen"]

_FACTOR = 6364136223846793005  # of a linear congruential generator modulo 2^64 (Knuth's MMIX)


def add_seen(kept: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """ "seen" and "digest" after the columns `ids` (b, t) followed those of `kept`."""
    batch, length = ids.shape
    before = kept.get("seen", ids.new_zeros(batch)), kept.get("digest", ids.new_zeros(batch))
    powers = torch.full((length + 1,), _FACTOR, dtype=torch.int64, device=ids.device)
    powers[0] = 1
    powers = powers.cumprod(0).flip(0)  # modulo 2^64
    digest = before[1] * powers[0] + ((ids.long() + 1) * powers[1:]).sum(1)
    return {"seen": before[0] + length, "digest": digest}


def already_seen(cache: Any, ids: Tensor, attention_mask: Tensor | None) -> int:
    """How many of the first columns of `ids` (b, t) the state of a cache is already of.

    A caller of `generate` may give all tokens, or only those that follow. A mask of more columns
    than there are ids says that these are new; without one, ids that begin with all that the state
    has seen are all tokens.

    Raises:
        ValueError: nothing new in the ids, or only some rows begin as the state did.
    """
    kept = kept_by(cache)
    if "seen" not in kept or len(kept["seen"]) != len(ids):
        return 0
    if attention_mask is not None and attention_mask.shape[1] > ids.shape[1]:
        return 0
    count = int(kept["seen"][0])
    if ids.shape[1] < count:
        return 0
    same = add_seen({}, ids[:, :count])["digest"] == kept["digest"].to(ids.device)
    if not same.any():
        return 0
    if not same.all():
        raise ValueError(
            f"rows {same.nonzero()[:, 0].tolist()} begin with the {count} tokens that the state "
            "has seen, and the others do not; give all tokens in every row, or only new ones"
        )
    if ids.shape[1] == count:
        raise ValueError(
            f"the state has seen all of the {count} tokens already; give at least one more (if "
            "they are to be read once more: an attention_mask that also covers the earlier ones)"
        )
    return count
