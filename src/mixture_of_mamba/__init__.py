"""Mixture-of-Mamba: a Mamba block with one weight per modality in its projections.

Names are imported when they are first used (lazy.py), so that importing this package takes no time.
"""

import sys
from typing import TYPE_CHECKING

from . import startup as startup  # before torch: OpenMP reads its settings when it is loaded
from ._version import __version__ as __version__
from .lazy import lazy_names

if TYPE_CHECKING:
    from .batch import Batch as Batch
    from .generation import Generator as Generator
    from .interop.upcycle import upcycle as upcycle
    from .layers import PROJECTIONS as PROJECTIONS
    from .layers import MambaBlock as MambaBlock
    from .layers import MambaConfig as MambaConfig
    from .layers import MambaMixer as MambaMixer
    from .layers import MambaState as MambaState
    from .layers import ModalityLinear as ModalityLinear
    from .models import Modality as Modality
    from .models import ModelConfig as ModelConfig
    from .models import ModelOutput as ModelOutput
    from .models import ModelState as ModelState
    from .models import MultimodalModel as MultimodalModel
    from .models import freeze as freeze
    from .models import preset as preset
    from .ops import BackendError as BackendError
    from .ops import Routing as Routing
    from .ops import causal_conv1d as causal_conv1d
    from .ops import modality_linear as modality_linear
    from .ops import selective_scan as selective_scan
    from .ops import use_backend as use_backend
    from .training import load_run as load_run
    from .training import train as train
    from .training.config import RunConfig as RunConfig
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "_version": ["__version__"],
            "batch": ["Batch"],
            "generation": ["Generator"],
            "interop.upcycle": ["upcycle"],
            "layers": [
                "PROJECTIONS",
                "MambaBlock",
                "MambaConfig",
                "MambaMixer",
                "MambaState",
                "ModalityLinear",
            ],
            "models": [
                "Modality",
                "ModelConfig",
                "ModelOutput",
                "ModelState",
                "MultimodalModel",
                "freeze",
                "preset",
            ],
            "ops": [
                "BackendError",
                "Routing",
                "causal_conv1d",
                "modality_linear",
                "selective_scan",
                "use_backend",
            ],
            "training": ["load_run", "train"],
            "training.config": ["RunConfig"],
        },
        rooms=[
            "data",
            "evaluation",
            "generation",
            "interop",
            "layers",
            "modalities",
            "models",
            "ops",
            "training",
        ],
    )
    # torch.export.load asks for the operators and classes of a program.
    if sys.modules.get("torch"):
        __getattr__("MultimodalModel")
