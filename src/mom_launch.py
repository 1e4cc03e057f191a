"""The program `mom`. Threads are set up by the package itself, before it imports torch."""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    """Run a sub-command; returns the exit code."""
    from mixture_of_mamba.cli.main import main

    return main()
