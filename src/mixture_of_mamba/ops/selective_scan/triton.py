"""Under construction."""

from typing import Any


def why_not(inputs: Any) -> str | None:
    return "it is not built into this version"
