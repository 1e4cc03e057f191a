"""Reading back what a comparison made beside its runs: whole, or left out and made anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..files import DamagedFile, read_json, verify

__all__ = ["read_artefact"]


def read_artefact(path: Path, kind: type = dict) -> Any:
    """The value of a JSON file that the comparison's command makes; None where it is not there, or
    where it or a file of its sealed folder is damaged, which is said.

    Args:
        kind: that it holds, dict or list.
    """
    if not path.is_file():
        return None
    try:
        verify(path.parent)
        return read_json(path, kind)
    except DamagedFile as error:
        print(f"left out, the comparison's command makes it anew: {error}", file=sys.stderr)
        return None
