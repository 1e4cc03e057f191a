"""The one place where a backend is chosen.

Each op registers its backends in order of preference. ``backend=None`` takes the first that can
serve; a named backend that cannot serve raises: no measurement is of another backend.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

__all__ = [
    "BackendError",
    "active",
    "backends",
    "choose",
    "load",
    "prefer",
    "preferences",
    "preferred",
    "use_backend",
]


class BackendError(RuntimeError):
    """The named backend cannot serve this call (device, dtype, shape or missing compiler)."""


#: Module of each backend by op and name, in order of preference. Modules are imported at first use,
#: so that importing the package never imports triton and never compiles anything.
_REGISTRY: dict[str, dict[str, str]] = {
    op: {name: f"mixture_of_mamba.ops.{op}.{module}" for name, module in table.items()}
    for op, table in {
        "selective_scan": {"triton": "triton", "cpu": "cpu", "torch": "chunked"},
        "causal_conv1d": {"triton": "triton", "cpu": "cpu", "torch": "portable"},
        "modality_linear": {"grouped": "grouped", "loop": "loop"},
        "decode_step": {"cpu": "cpu", "torch": "portable"},
    }.items()
}
#: Ops whose "reference" is a formula in torch's operations.
_FORMULAS = ("selective_scan", "causal_conv1d", "modality_linear")
#: The one device type of a backend; on others automatic choice does not even import its module
#: (triton on a CPU, by name, runs its interpreter).
_DEVICE = {"triton": "cuda", "grouped": "cuda", "cpu": "cpu"}
_LOADED: dict[tuple[str, str], ModuleType] = {}
#: Ops and devices whose slow path has been explained.
_EXPLAINED: set[tuple[str, str]] = set()


class _Preferences(threading.local):
    """What torch.compile reads in place of the context variable, which it cannot trace or guard.

    Attributes:
        names: the preferences that were entered last in this thread, of those that still hold.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # replaced, never written into
        self._entered: dict[object, dict[str, str]] = {}

    def enter(self, names: dict[str, str]) -> object:
        """Returns what `leave` takes."""
        entry = object()
        self.names = self._entered[entry] = names
        return entry

    def leave(self, entry: object) -> None:
        """In any order: asyncio tasks of one thread take turns."""
        self._entered.pop(entry, None)
        self.names = next(reversed(self._entered.values()), {})


#: Backends by op that `use_backend` prefers in this thread and task.
_PREFERRED: ContextVar[dict[str, str]] = ContextVar("preferred backends", default={})  # noqa: B039
_TRACED = _Preferences()


def backends(op: str) -> tuple[str, ...]:
    """Names of the op's backends, preferred first."""
    return tuple(_REGISTRY[op])


def _reference(op: str) -> tuple[str, ...]:
    return ("reference",) if op in _FORMULAS else ()


def load(op: str, name: str) -> ModuleType:
    """The backend's module.

    Raises:
        BackendError: there is no such backend.
    """
    module = _LOADED.get((op, name))  # torch.compile reads a dictionary, but imports nothing
    if module is None:
        if name not in _REGISTRY[op]:
            raise BackendError(
                f"{op} has no backend {name!r}; choose from {[*_REGISTRY[op], *_reference(op)]}"
            )
        module = _LOADED[op, name] = import_module(_REGISTRY[op][name])
    return module


def choose(op: str, inputs: Any, requested: str | None = None) -> tuple[str, ModuleType]:
    """The backend that serves this call.

    Args:
        op: name of the op.
        inputs: the op's input record; backends read device, dtypes and shapes from it.
        requested: a backend by name, or None (or "") for automatic choice.

    Raises:
        BackendError: the named backend does not exist or cannot serve this call.
    """
    if requested:
        module = load(op, requested)
        reason = module.why_not(inputs)
        if reason is not None:
            able = [n for n in _REGISTRY[op] if n != requested and not load(op, n).why_not(inputs)]
            raise BackendError(
                f"{op}: backend {requested!r} cannot serve this call: {reason}; "
                f"{' or '.join(map(repr, [*able, *_reference(op)])) or 'none'} can"
            )
        return requested, module
    name, reasons = active(op, inputs)
    if name is None:
        raise BackendError(f"{op}: no backend can serve this call ({'; '.join(reasons)})")
    _explain_slow_path(op, name, reasons, inputs.device_type)
    return name, load(op, name)


def active(op: str, inputs: Any) -> tuple[str | None, list[str]]:
    """The backend that automatic choice takes, None where none serves, and why it passes over
    those before it."""
    reasons: list[str] = []
    for name in _REGISTRY[op]:
        device = _DEVICE.get(name, inputs.device_type)
        if device != inputs.device_type:
            reasons.append(f"{name}: serves {device}, not {inputs.device_type}")
            continue
        reason = load(op, name).why_not(inputs)
        if reason is None:
            return name, reasons
        reasons.append(f"{name}: {reason}")
    return None, reasons


def _explain_slow_path(op: str, name: str, reasons: list[str], device_type: str) -> None:
    """Say once per op and device why the fast backend was passed over; never silently slow."""
    fast = {"cuda": "triton", "cpu": "cpu"}.get(device_type)
    if name == fast or fast not in _REGISTRY[op] or (op, device_type) in _EXPLAINED:
        return
    _EXPLAINED.add((op, device_type))
    why = next((r for r in reasons if r.startswith(f"{fast}:")), "")
    warnings.warn(f"{op} on {device_type} runs on backend {name!r}; {why}", stacklevel=4)


@contextmanager
def use_backend(**names: str) -> Iterator[None]:
    """Prefer backends by op name for a while: ``with use_backend(selective_scan="torch"): ...``.

    The preference holds in the thread and the asyncio task that entered it (in a compiled function,
    in the thread).
    """
    for op, name in names.items():
        if op not in _REGISTRY:
            raise BackendError(f"there is no op {op!r}; choose from {sorted(_REGISTRY)}")
        if name not in _reference(op):  # which is a formula, not a module
            load(op, name)
    with prefer({**_PREFERRED.get(), **names}):
        yield


@contextmanager
def prefer(names: dict[str, str]) -> Iterator[None]:
    """Prefer exactly these backends by op for a while, whatever `use_backend` prefers around it."""
    token, entry = _PREFERRED.set(names), _TRACED.enter(names)
    try:
        yield
    finally:
        _TRACED.leave(entry)
        _PREFERRED.reset(token)


def preferences() -> dict[str, str]:
    """Backends by op that `use_backend` prefers here."""
    return _TRACED.names if torch.compiler.is_compiling() else _PREFERRED.get()


def preferred(op: str, requested: str | None) -> str:
    """The backend's name that an op must carry with it, "" for automatic choice.

    Resolved where an op is called, not where it runs: the backward may run when a preference has
    ended, and saved states are the forward's backend's own.
    """
    return requested or preferences().get(op, "")
