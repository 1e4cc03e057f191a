"""What the figures of a comparison depend on beside its settings: data, device, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .machine import machine, versions

__all__ = ["basis_differences", "basis_of", "joined"]

Basis = Mapping[str, Any]
_PINNED = ("mixture-of-mamba", "torch")
"""Packages whose version decides what a step computes; what others decide, digests of data tell."""


def basis_of(digests: Mapping[str, str], device: str) -> dict[str, Any]:
    """The basis of runs that are trained here and now.

    Args:
        digests: of the data, {what: digest}.
        device: "cpu" or "cuda".
    """
    here = machine()
    return {
        "device": here.get("gpu", device) if device == "cuda" else device,
        "data": dict(digests),
        "versions": versions(),
        "machine": here,
    }


def basis_differences(before: Basis, now: Basis) -> list[str]:
    """What may not change within a comparison and did. The processor may: it changes seconds, of
    which none are compared then (timing.py), and the last bits of a loss."""
    if not before:
        return ["data, device and versions: not recorded by the version that began it -> recorded"]
    changed = [
        f"{name} {old!r} -> {new!r}"
        for name, old, new in [
            ("device", before["device"], now["device"]),
            *(
                (f"version of {p}", before["versions"].get(p), now["versions"].get(p))
                for p in _PINNED
            ),
        ]
        if old != new
    ]
    data = {**before["data"], **now["data"]}
    other = [what for what in data if before["data"].get(what) != now["data"].get(what)]
    return changed + ([f"data: other {', '.join(other)}"] if other else [])


def joined(before: Basis, now: Basis) -> dict[str, Any]:
    """The basis of a comparison that goes on, perhaps on a further machine."""

    def both(name: str) -> dict[str, str]:
        old, new = before.get(name, {}), now[name]
        return {
            key: " and ".join(dict.fromkeys([*old.get(key, value).split(" and "), value]))
            for key, value in new.items()
        }

    return {**now, "versions": both("versions"), "machine": both("machine")}
