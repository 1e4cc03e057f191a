"""Whether a module is plain: calling it runs its class's `forward` and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["as_built", "no_global_hooks"]


def as_built(*kinds: type[nn.Module]) -> Callable[[nn.Module], bool]:
    """A test for modules of these classes: whether a call runs their own `forward`, and only that.

    A subclass, a parametrization (which changes the class), a wrapper, hooks, a `forward` that was
    replaced on the instance (as accelerate's hooks do) or on the class since this test was made,
    and a compiled call are all something else. See `no_global_hooks` for hooks on every module.
    """
    forwards = {kind: kind.forward for kind in kinds}

    def test(module: nn.Module) -> bool:
        kind = type(module)
        return (
            forwards.get(kind) is kind.forward
            and "forward" not in module.__dict__
            and module._compiled_call_impl is None
            and not _has_hooks(module)
        )

    return test


def no_global_hooks() -> bool:
    """Whether no hook runs at every module's call (see torch's register_module_forward_hook)."""
    return not torch_module._has_any_global_hook()


def _has_hooks(module: nn.Module) -> bool:
    """Whether hooks run when this module is called, or in the backward of that call."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
