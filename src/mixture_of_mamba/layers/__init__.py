"""Layers: one block and its parts, on tokens or on rows in modality order."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .block import MambaBlock as MambaBlock
    from .config import PROJECTION_ORDER as PROJECTION_ORDER
    from .config import PROJECTIONS as PROJECTIONS
    from .config import MambaConfig as MambaConfig
    from .config import parse_split as parse_split
    from .linear import ModalityLinear as ModalityLinear
    from .mixer import MambaMixer as MambaMixer
    from .state import MambaState as MambaState
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "block": ["MambaBlock"],
            "config": ["PROJECTIONS", "PROJECTION_ORDER", "MambaConfig", "parse_split"],
            "linear": ["ModalityLinear"],
            "mixer": ["MambaMixer"],
            "state": ["MambaState"],
        },
    )
