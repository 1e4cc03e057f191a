"""The program `mom`: what has to be set before torch is imported, then `mixture_of_mamba.cli.main`.

A module of its own, because importing anything of the package imports torch, whose OpenMP library
reads its settings at that moment and never again.
"""

from __future__ import annotations

import os
import sys
from functools import cache

__all__ = ["WAITING", "main", "wait_briefly"]

#: Threads that wait for the next parallel region look for it some tens of microseconds long, and
#: then sleep. gcc's library looks for milliseconds: two processes that share two cores then burn
#: each other's time, and training is several times slower. Sleeping at once costs a tenth or more
#: when alone.
WAITING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}


@cache
def wait_briefly() -> str:
    """Set WAITING for this process, if torch is not there yet, and those that it starts; whoever
    chose a policy keeps it.

    Returns:
        What holds in this process, in words.
    """
    for name in ("OMP_WAIT_POLICY", *WAITING):
        if name in os.environ:
            return f"{name}={os.environ[name]}, as the environment says"
    os.environ.update(WAITING)
    if "torch" in sys.modules:
        return "as OpenMP has it, because torch was there first; those of new processes sleep soon"
    return "sleep soon"


def main() -> int:
    """Run a sub-command; returns the exit code."""
    wait_briefly()
    from mixture_of_mamba.cli.main import main

    return main()
