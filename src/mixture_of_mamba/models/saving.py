"""Models on disk: config.json beside model.safetensors; never a pickle."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import filling, read_json, verify, write_json
from .config import ModelConfig

__all__ = [
    "check_shapes",
    "read_model",
    "read_tensors",
    "save_model",
    "shapes_of",
    "write_model",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(config: ModelConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write both files and their digests; complete, or the folder stays as it was.

    Args:
        config, weights: of the model; the weights are its state dict.
        folder: that is made, or replaced.

    Raises:
        WriteError: the folder could not be written.
    """
    with filling(folder) as part:
        write_model(config, weights, part)


def write_model(config: ModelConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write both files into a folder that is being filled."""
    kept = {k: v.detach().contiguous() for k, v in weights.items()}
    if config.tie_embeddings:
        del kept["head.weight"]
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config.to_dict(), indent=2)


def read_model(folder: Path, device: torch.device | str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and the state dict of a saved model.

    Raises:
        FileNotFoundError: no model in the folder.
        ValueError: a damaged file, or one that differs from the folder's digests.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: config.json is missing; give a folder that "
            "save_pretrained wrote, such as a run's model/"
        )
    config = ModelConfig.from_dict(read_json(folder / CONFIG))
    verify(folder, [WEIGHTS])
    weights = read_tensors(folder / WEIGHTS, device)
    if config.tie_embeddings and "embedding.weight" in weights:
        weights["head.weight"] = weights["embedding.weight"]
    return config, weights


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or truncated or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or truncated ({error}); copy or save the model again"
        ) from error


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def check_shapes(
    needed: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], source: str
) -> None:
    """Compare a state dict to the names and shapes that a model needs.

    Raises:
        ValueError: names every missing, extra and misshapen tensor, with the nearest name.
    """
    problems = []
    for name in sorted(needed.keys() - given.keys()):
        near = difflib.get_close_matches(name, given.keys() - needed.keys(), 1)
        problems.append(f"missing {name} {needed[name]}" + (f" (is it {near[0]}?)" if near else ""))
    for name in sorted(given.keys() - needed.keys()):
        near = difflib.get_close_matches(name, needed, 1)
        problems.append(f"unexpected {name}" + (f" (nearest: {near[0]})" if near else ""))
    for name in sorted(needed.keys() & given.keys()):
        if tuple(given[name].shape) != needed[name]:
            problems.append(f"{name} has shape {tuple(given[name].shape)}, needs {needed[name]}")
    if problems:
        raise ValueError(f"{source} does not fit the model: " + "; ".join(problems))
