"""Training: one loop, its configuration, checkpoints and run folders.

`train` and `load_run` are the ways in. They are imported when they are first asked for, so that
reading a config imports neither Lightning nor the data.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .loop import train as train
    from .runs import load_run as load_run
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, {"loop": ["train"], "runs": ["load_run"]})
