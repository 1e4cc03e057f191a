"""Models on disk: config.json beside model.safetensors; never a pickle."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import filling, read_json, verify, write_json
from .config import ModelConfig

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "PretrainedModel",
    "check_shapes",
    "read_tensors",
    "shapes_of",
    "write_model",
]

#: The files of a model's folder.
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class PretrainedModel(nn.Module):
    """A model that is made of a config; its weights can be saved and loaded."""

    config: ModelConfig

    def tie_weights(self) -> None:
        """Make parameters one that the config says are one."""

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Make the buffers that are derived from the config."""

    def take_weights(self, weights: Mapping[str, Tensor], device: torch.device | str) -> None:
        """Make these tensors the parameters of a model that was built without any (on "meta").

        Args:
            weights: by name, all of them on the device; where the head is the embedding, it may be
                missing.
            device: for the buffers that are derived from the config.
        """
        if self.config.tie_embeddings:
            weights = {**weights, "head.weight": weights["embedding.weight"]}
        self.load_state_dict(weights, assign=True)
        self.tie_weights()
        self.reset_buffers(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, with their digests in SHA256SUMS; complete, or
        the folder stays as it was.

        Raises:
            WriteError: the folder could not be written.
        """
        with filling(Path(folder)) as part:
            write_model(self.config, self.state_dict(), part)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Read what save_pretrained wrote.

        Raises:
            FileNotFoundError: no model in the folder.
            ValueError: a damaged file, or tensors that do not fit the config (all named).
        """
        config, weights = read_model(Path(folder), device)
        with torch.device("meta"):
            model = cls(config)  # type: ignore[call-arg]
        check_shapes(shapes_of(model.state_dict()), weights, str(folder))
        model.take_weights(weights, device)
        return model


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
