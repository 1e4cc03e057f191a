"""The size of a saved model, and its FLOPs by part, without loading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import DamagedFile, read_json
from ..models.config import ModelConfig
from ..models.flops import flops_breakdown, parameter_counts

__all__ = ["ModelSize", "model_size"]


@dataclass(frozen=True)
class ModelSize:
    """Attributes:
    parameters, active_parameters: all, and those that one token meets.
    flops_by_part: training FLOPs of one token by part of the network.
    """

    parameters: int
    active_parameters: int
    flops_by_part: Mapping[str, float]


def model_size(folder: Path, *, window: int, flops_per_token: float) -> ModelSize:
    """The size of the model that a run saved.

    Args:
        folder: with config.json and model.safetensors.
        window: tokens that attention compares each token with.
        flops_per_token: that the run counted; the share of continuous tokens follows from it.

    Raises:
        FileNotFoundError, ValueError: no model in the folder, or a damaged one.
    """
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    shapes = _shapes(folder / "model.safetensors")
    total, active = parameter_counts(shapes, config)
    parts = flops_breakdown(config, window=window)
    if "continuous maps" in parts:
        del parts["continuous maps"]
        parts["continuous maps"] = flops_per_token - sum(parts.values())
    return ModelSize(total, active, parts)


def _shapes(path: Path) -> dict[str, Sequence[int]]:
    """Shapes by name, from the header of a safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}); copy or save it again") from error
