"""torch's registry of FLOP formulas, without its warning where triton is not installed."""

from __future__ import annotations

import logging

_log = logging.getLogger("torch.utils.flop_counter")
_level = _log.level
_log.setLevel(logging.ERROR)  # it would tell every CPU user at import that triton is missing
from torch.utils.flop_counter import register_flop_formula  # noqa: E402

_log.setLevel(_level)

__all__ = ["register_flop_formula"]
