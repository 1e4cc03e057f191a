"""Training: one loop, its configuration, checkpoints and run folders.

`train`, `RunConfig` and `load_run` are the ways in. They are imported when they are first used, so
that reading a config imports neither Lightning nor the data.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import RunConfig as RunConfig
    from .loop import train as train
    from .runs import load_run as load_run
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {"config": ["RunConfig"], "loop": ["train"], "runs": ["load_run"]}
    )
