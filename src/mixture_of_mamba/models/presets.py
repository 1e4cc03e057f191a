"""The paper's scales, as named data: width and depth (two Mamba blocks per transformer layer)."""

from __future__ import annotations

from typing import Any

from .config import Modality, ModelConfig

__all__ = ["PRESETS", "preset"]

_CHAMELEON = (Modality("text", "discrete", 57_344), Modality("image", "discrete", 8_192))
_TRANSFUSION = (Modality("text", "discrete", 32_000), Modality("image", "continuous", 32))

#: name -> (width, transformer layers, modalities); "tiny" is the demo's.
_SCALES: dict[str, tuple[int, int, tuple[Modality, ...]]] = {
    "chameleon-37m": (256, 4, _CHAMELEON),
    "chameleon-94m": (512, 8, _CHAMELEON),
    "chameleon-443m": (1024, 24, _CHAMELEON),
    "chameleon-880m": (1536, 24, _CHAMELEON),
    "chameleon-1.5b": (2048, 24, _CHAMELEON),
    "transfusion-163m": (768, 16, _TRANSFUSION),
    "transfusion-760m": (1536, 24, _TRANSFUSION),
    "transfusion-1.4b": (2048, 24, _TRANSFUSION),
}

PRESETS: dict[str, dict[str, Any]] = {"tiny": {"d_model": 96, "n_layers": 6}} | {
    name: {"d_model": width, "n_layers": 2 * layers, "modalities": modalities}
    for name, (width, layers, modalities) in _SCALES.items()
}


def preset(name: str, **overrides: Any) -> ModelConfig:
    """A named scale; `overrides` are fields of ModelConfig ("tiny" needs `modalities`).

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose from {sorted(PRESETS)}")
    return ModelConfig(**(PRESETS[name] | overrides))
