"""Frozen parameters, and rows of parameters: hooks that keep their values while the rest trains.

A split projection is one parameter for all modalities, and so is the vocabulary: `requires_grad`
cannot freeze a part of it. Here the gradient of the frozen rows is zeroed on its way into `.grad`,
so that they add nothing to the gradient's norm and the optimizer's averages, and every step of
every optimizer restores their values from before the step, so that weight decay and momentum change
nothing. Values that are loaded between steps are kept from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
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

__all__ = ["Frozen"]


@dataclass(eq=False)
class Frozen:
    """What `freezing.freeze` froze; `release` undoes it.

    Attributes:
        parts: names of modalities, and "shared".
        whole: names of parameters that are frozen altogether.
        rows: name of a parameter -> its frozen rows along the first axis, (k,) int64.
    """

    parts: tuple[str, ...]
    whole: tuple[str, ...] = ()
    rows: dict[str, Tensor] = field(default_factory=dict)
    _held: list[_Whole | _Rows] = field(default_factory=list, repr=False)

    def add(self, name: str, owner: nn.Module, parameter: nn.Parameter, rows: Tensor) -> None:
        """Freeze rows of a parameter of `owner`, or all of it."""
        if len(rows) == parameter.shape[0]:
            self.whole += (name,)
            self._held.append(_Whole(name, owner, parameter))
        else:
            self.rows[name] = rows
            self._held.append(_Rows(name, owner, parameter, rows))

    def activate(self) -> None:
        """From now on every optimizer's steps keep what was added."""
        _watch_optimizers()
        _ACTIVE.append(self)

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
        """Refuse to train another parameter in the place of a frozen one."""
        present = self.present()
        if present is not None and present is not self.parameter():
            raise RuntimeError(
                f"{self.name} is frozen, but the model has another parameter there now (from "
                "load_state_dict(assign=True), or divided by FSDP); release the freeze, and freeze "
                "again once the model has its parameters"
            )

    def after_step(self) -> None:
        """Restore what is frozen."""


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
        self.hook = parameter.requires_grad_(True).register_hook(self._zero_rows)
        parameter.requires_grad_(needed)

    def count(self) -> int:
        parameter = self.parameter()
        return 0 if parameter is None else len(self.rows) * parameter[0].numel()

    def release(self) -> None:
        self.hook.remove()

    def _zero_rows(self, gradient: Tensor) -> Tensor:
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
