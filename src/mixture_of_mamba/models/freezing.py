"""Keep parts of a model as they are, to the bit, while the rest trains.

A split projection is one parameter for all modalities, and so is the vocabulary: `requires_grad`
cannot freeze a part of it. Here the gradient of the frozen rows is zeroed on its way into `.grad`,
so that they weigh nothing in the clipping norm and in the optimizer's averages, and after every
step of every optimizer they are put back, so that weight decay and momentum leave no trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from ..layers import ModalityLinear
from .config import ModelConfig
from .model import MultimodalModel

__all__ = ["SHARED", "Frozen", "freeze"]

#: The part that every modality uses: convolutions, A and D, norms, projections that are not split.
SHARED = "shared"


@dataclass(eq=False)
class Frozen:
    """What `freeze` holds; `release` lets everything train again.

    Attributes:
        parts: names of modalities, and "shared".
        whole: names of parameters that are frozen altogether.
        rows: name of a parameter -> its frozen rows along the first axis, (k,) int64.
    """

    parts: tuple[str, ...]
    whole: tuple[str, ...] = ()
    rows: dict[str, Tensor] = field(default_factory=dict)
    _whole: list[weakref.ref[nn.Parameter]] = field(default_factory=list, repr=False)
    _kept: list[_KeptRows] = field(default_factory=list, repr=False)

    def release(self) -> None:
        """Let everything train again."""
        for reference in self._whole:
            if (parameter := reference()) is not None:
                parameter.requires_grad_(True)
        for kept in self._kept:
            kept.hook.remove()
        self._kept.clear()

    def restore(self) -> None:
        """Put the frozen rows back; optimizers do it by themselves after each step."""
        for kept in self._kept:
            kept.restore()


#: What is frozen in this process; entries of models that are gone are dropped at the next step.
_ACTIVE: list[Frozen] = []


def _after_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Put back what this optimizer has moved. Registered once, for all optimizers."""
    if not _ACTIVE:
        return
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for frozen in list(_ACTIVE):
        for kept in frozen._kept:
            if id(kept.parameter()) in mine:
                kept.restore()
        if all(kept.parameter() is None for kept in frozen._kept):
            _ACTIVE.remove(frozen)


@cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_after_step)


class _KeptRows:
    """Some rows of one parameter, with the values that they keep."""

    def __init__(self, parameter: nn.Parameter, rows: Tensor) -> None:
        self.parameter = weakref.ref(parameter)
        self.rows = rows.to(parameter.device)
        self.values = parameter.detach()[self.rows].clone()
        self.hook = parameter.register_hook(self._silence)

    def _silence(self, gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, self.rows.to(gradient.device), 0)

    @torch.no_grad()
    def restore(self) -> None:
        parameter = self.parameter()
        if parameter is not None:
            rows = self.rows.to(parameter.device)
            parameter.index_copy_(0, rows, self.values.to(parameter.device, parameter.dtype))


def freeze(
    model: MultimodalModel, parts: Iterable[str], *, tokens: Mapping[str, int] | None = None
) -> Frozen:
    """Freeze the experts and vocabulary of some modalities, the shared parts, or both.

    With text and "shared" frozen, training on other modalities leaves the logits of text, given
    text, unchanged to the bit. Works with any optimizer; call it before the optimizer is made, so
    that parameters that are frozen altogether are left out. A copy of the model is not frozen.

    Args:
        model: whole, on one device or in DDP; not divided by FSDP.
        parts: names of modalities, and "shared" (convolutions, A and D, norms, projections that
            are not split).
        tokens: how many of a modality's first tokens to freeze; all by default. Upcycling appends
            begin tokens to the text vocabulary, which are to be trained.

    Raises:
        ValueError: no part, one that the model does not have, more tokens than its vocabulary, or a
            model that FSDP has divided.
    """
    parts = tuple(dict.fromkeys(parts))
    tokens = dict(tokens or {})
    _check(model.config, parts, tokens)
    frozen = Frozen(parts)
    done: set[int] = set()
    for name, parameter, rows in _selection(model, parts, tokens):
        if id(parameter) in done or not len(rows):  # tied maps appear twice
            continue
        if hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"{name} is divided among devices (FSDP); freeze works on whole parameters: "
                "train with DDP or on one device"
            )
        done.add(id(parameter))
        if len(rows) == parameter.shape[0]:
            parameter.requires_grad_(False)
            parameter.grad = None
            frozen.whole += (name,)
            frozen._whole.append(weakref.ref(parameter))
        else:
            frozen.rows[name] = rows
            frozen._kept.append(_KeptRows(parameter, rows))
    _watch_optimizers()
    _ACTIVE.append(frozen)
    return frozen


def _check(config: ModelConfig, parts: tuple[str, ...], tokens: Mapping[str, int]) -> None:
    valid = (*config.names, SHARED)
    if not parts:
        raise ValueError(f"nothing to freeze was named; choose from {', '.join(valid)}")
    if unknown := [p for p in (*parts, *tokens) if p not in valid]:
        raise ValueError(f"cannot freeze {unknown}; this model has {', '.join(valid)}")
    for name, count in tokens.items():
        size = config.modalities[config.index(name)].size
        if not 0 <= count <= size:
            raise ValueError(f"tokens[{name!r}] is {count}; its vocabulary has {size} entries")


def _selection(
    model: MultimodalModel, parts: tuple[str, ...], tokens: Mapping[str, int]
) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """(name, parameter, rows of its first axis) of everything that is to stay."""
    config = model.config
    experts = [i for i, m in enumerate(config.modalities) if m.name in parts]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, _ = name.rpartition(".")
        count = parameter.shape[0]
        if owner in ("embedding", "head"):
            yield name, parameter, _vocabulary(config, experts, tokens)
        elif owner.startswith("diffusion."):
            mine = any(owner.startswith(f"diffusion.maps.{p}.") for p in parts)
            yield name, parameter, torch.arange(count if mine else 0)
        elif isinstance(model.get_submodule(owner), ModalityLinear) and count > 1:
            yield name, parameter, torch.tensor(experts, dtype=torch.int64)
        else:
            yield name, parameter, torch.arange(count if SHARED in parts else 0)


def _vocabulary(config: ModelConfig, experts: list[int], tokens: Mapping[str, int]) -> Tensor:
    """Rows of the vocabulary that belong to the frozen modalities."""
    pieces = [torch.arange(0)]
    for i in experts:
        low, high = config.vocabulary_ranges[i]
        pieces.append(torch.arange(low, min(high, low + tokens.get(config.names[i], high - low))))
    return torch.cat(pieces)
