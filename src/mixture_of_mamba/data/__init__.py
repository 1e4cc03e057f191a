"""Documents to batches: sources, tokenizers, packing, and the prepared data they give.

Nothing heavy is imported here; the names load when they are used.
`data.build.build` makes the data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixture_of_mamba.data.batch import Batch
    from mixture_of_mamba.data.bundle import DataBundle
    from mixture_of_mamba.data.config import DataConfig
    from mixture_of_mamba.data.documents import EncodedDocument, Segment
    from mixture_of_mamba.data.examples import Example
    from mixture_of_mamba.data.order import Schedule
    from mixture_of_mamba.data.tokenizers import TokenizerSet
    from mixture_of_mamba.data.windows import PackedWindows

__all__ = [
    "Batch",
    "DataBundle",
    "DataConfig",
    "EncodedDocument",
    "Example",
    "PackedWindows",
    "Schedule",
    "Segment",
    "TokenizerSet",
]

_HOME = {
    "Batch": "batch",
    "DataBundle": "bundle",
    "DataConfig": "config",
    "EncodedDocument": "documents",
    "Example": "examples",
    "PackedWindows": "windows",
    "Schedule": "order",
    "Segment": "documents",
    "TokenizerSet": "tokenizers",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
