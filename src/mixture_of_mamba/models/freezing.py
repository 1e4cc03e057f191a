"""Keep parts of a model as they are, to the bit, while the rest trains.

A split projection is one parameter for all modalities, and so is the vocabulary: `requires_grad`
cannot freeze a part of it. Here the gradient of the frozen rows is zeroed on its way into `.grad`,
so that they weigh nothing in the clipping norm and in the optimizer's averages, and every step of
every optimizer puts them back as they were before it, so that weight decay and momentum leave no
trace. What is loaded between steps is kept from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import ModalityLinear
from .config import ModelConfig
from .model import MultimodalModel

__all__ = ["SHARED", "Frozen", "freeze"]

#: The part that every modality uses: convolutions, A and D, norms, projections that are not split.
SHARED = "shared"


@dataclass(eq=False)
class Frozen:
    """What `freeze` holds; `release` lets go of it.

    Attributes:
        parts: names of modalities, and "shared".
        whole: names of parameters that are frozen altogether.
        rows: name of a parameter -> its frozen rows along the first axis, (k,) int64.
    """

    parts: tuple[str, ...]
    whole: tuple[str, ...] = ()
    rows: dict[str, Tensor] = field(default_factory=dict)
    _held: list[_Whole | _Rows] = field(default_factory=list, repr=False)

    def parameter_count(self) -> int:
        """How many numbers are frozen."""
        return sum(held.count() for held in self._held)

    def release(self) -> None:
        """Let these parts train as they did before, but for what another `freeze` holds too."""
        for held in self._held:
            held.release()
        self._held.clear()
        if self in _ACTIVE:
            _ACTIVE.remove(self)


#: What is frozen in this process; entries of models that are gone are dropped at the next step.
_ACTIVE: list[Frozen] = []

#: Parameters that are frozen altogether -> how often, and whether they needed gradients before.
_WHOLE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _touched(optimizer: Optimizer) -> Iterator[_Whole | _Rows]:
    """What is held of parameters of which some are this optimizer's."""
    if not _ACTIVE:
        return
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for frozen in list(_ACTIVE):
        if all(held.parameter() is None for held in frozen._held):
            _ACTIVE.remove(frozen)
        for held in frozen._held:
            if id(held.parameter()) in mine or id(held.present()) in mine:
                yield held


def _before_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    for held in _touched(optimizer):
        held.before_step()


def _after_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    for held in _touched(optimizer):
        held.after_step()


@cache
def _watch_optimizers() -> None:
    """Once for all optimizers of this process."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


class _Held:
    """A parameter, and where in its model it is."""

    def __init__(self, name: str, owner: nn.Module, parameter: nn.Parameter) -> None:
        self.name, self._owner = name, weakref.ref(owner)
        self.parameter = weakref.ref(parameter)

    def present(self) -> nn.Parameter | None:
        """The parameter that the model has in this place now."""
        owner = self._owner()
        return None if owner is None else owner._parameters.get(self.name.rpartition(".")[2])

    def count(self) -> int:
        """How many of its numbers are frozen; 0 where the model is gone."""
        parameter = self.parameter()
        return 0 if parameter is None else parameter.numel()

    def before_step(self) -> None:
        """Refuse to train what stands in the place of a frozen parameter."""
        present = self.present()
        if present is not None and present is not self.parameter():
            raise RuntimeError(
                f"{self.name} is frozen, but the model has another parameter there now (from "
                "load_state_dict(assign=True), or divided by FSDP); release the freeze, and freeze "
                "again once the model has its parameters"
            )

    def after_step(self) -> None:
        """Nothing to put back."""


class _Whole(_Held):
    """A parameter that is frozen altogether."""

    def __init__(self, name: str, owner: nn.Module, parameter: nn.Parameter) -> None:
        super().__init__(name, owner, parameter)
        times, before = _WHOLE.get(parameter, (0, parameter.requires_grad))
        _WHOLE[parameter] = times + 1, before
        parameter.requires_grad_(False)
        parameter.grad = None

    def release(self) -> None:
        parameter = self.parameter()
        if parameter is None:
            return
        times, before = _WHOLE.pop(parameter)
        if times > 1:
            _WHOLE[parameter] = times - 1, before
        else:
            parameter.requires_grad_(before)


class _Rows(_Held):
    """Some rows of one parameter, with the values that they had before the present step."""

    def __init__(self, name: str, owner: nn.Module, parameter: nn.Parameter, rows: Tensor) -> None:
        super().__init__(name, owner, parameter)
        self.rows = rows.to(parameter.device)
        self.values = parameter.detach()[self.rows]
        needed = parameter.requires_grad  # not so where another freeze holds all of it
        self.hook = parameter.requires_grad_(True).register_hook(self._silence)
        parameter.requires_grad_(needed)

    def count(self) -> int:
        parameter = self.parameter()
        return 0 if parameter is None else len(self.rows) * parameter[0].numel()

    def release(self) -> None:
        self.hook.remove()

    def _silence(self, gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, self.rows.to(gradient.device), 0)

    def before_step(self) -> None:
        super().before_step()
        if (parameter := self.parameter()) is not None:
            self.rows = self.rows.to(parameter.device)
            self.values = parameter.detach()[self.rows]

    @torch.no_grad()
    def after_step(self) -> None:
        if (parameter := self.parameter()) is not None:
            parameter.index_copy_(0, self.rows, self.values)


def freeze(
    model: MultimodalModel, parts: Iterable[str], *, tokens: Mapping[str, int] | None = None
) -> Frozen:
    """Freeze the experts and vocabulary of some modalities, the shared parts, or both.

    With text and "shared" frozen, training on other modalities leaves the logits of text, given
    text, unchanged to the bit. Works with any optimizer of torch's; call it before the optimizer is
    made, so that parameters that are frozen altogether are left out. Weights that are loaded later
    are kept as they come. In a copy of the model, whole parameters stay as they are (they need no
    gradient), and rows of others are free: freeze it anew.

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
        owner = model.get_submodule(name.rpartition(".")[0])
        if len(rows) == parameter.shape[0]:
            frozen.whole += (name,)
            frozen._held.append(_Whole(name, owner, parameter))
        else:
            frozen.rows[name] = rows
            frozen._held.append(_Rows(name, owner, parameter, rows))
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
