"""Models on disk: config.json beside model.safetensors; never a pickle."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import filling, read_json, verify, write_json
from .config import ModelConfig

if TYPE_CHECKING:
    from .model import MultimodalModel

    M = TypeVar("M", bound=MultimodalModel)

__all__ = [
    "check_shapes",
    "check_tensors",
    "load_model",
    "read_tensors",
    "save_model",
    "write_model",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(model: MultimodalModel, folder: Path) -> None:
    """Write both files and their digests; complete, or the folder stays as it was.

    Raises:
        WriteError: the folder could not be written.
    """
    with filling(folder) as part:
        write_model(model, part)


def write_model(
    model: MultimodalModel, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write both files into a folder that is being filled.

    Args:
        state: the tensors where they are not the model's own (gathered from many devices).
    """
    state = {k: v.detach().contiguous() for k, v in (state or model.state_dict()).items()}
    if model.config.tie_embeddings:
        del state["head.weight"]
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, model.config.to_dict(), indent=2)


def load_model(cls: type[M], folder: Path, device: torch.device | str) -> M:
    """The model of a folder; weights are held against the folder's digests, where it has some."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: config.json is missing; give a folder that "
            "save_pretrained wrote, such as a run's model/"
        )
    config = ModelConfig.from_dict(read_json(folder / CONFIG))
    verify(folder, [WEIGHTS])
    with torch.device("meta"):
        model = cls(config)
    state = read_tensors(folder / WEIGHTS, device)
    if config.tie_embeddings and "embedding.weight" in state:
        state["head.weight"] = state["embedding.weight"]
    check_tensors(model, state, str(folder))
    model.load_state_dict(state, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    model.reset_buffers(device)
    return model


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


def check_tensors(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Hold a state dict against a model.

    Raises:
        ValueError: names every missing, extra and misshapen tensor, with the nearest name.
    """
    check_shapes({k: tuple(v.shape) for k, v in model.state_dict().items()}, state, source)


def check_shapes(
    wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], source: str
) -> None:
    """The same against names and shapes.

    Raises:
        ValueError: names every missing, extra and misshapen tensor, with the nearest name.
    """
    problems = []
    for name in sorted(wanted.keys() - state.keys()):
        near = difflib.get_close_matches(name, state.keys() - wanted.keys(), 1)
        problems.append(f"missing {name} {wanted[name]}" + (f" (is it {near[0]}?)" if near else ""))
    for name in sorted(state.keys() - wanted.keys()):
        near = difflib.get_close_matches(name, wanted, 1)
        problems.append(f"unexpected {name}" + (f" (nearest: {near[0]})" if near else ""))
    for name in sorted(wanted.keys() & state.keys()):
        if tuple(state[name].shape) != wanted[name]:
            problems.append(f"{name} has shape {tuple(state[name].shape)}, needs {wanted[name]}")
    if problems:
        raise ValueError(f"{source} does not fit the model: " + "; ".join(problems))
