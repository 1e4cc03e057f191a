"""Saved states on disk: one safetensors file with a digest of its numbers, and of the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing
from ..layers import MambaState
from .config import ModelConfig

__all__ = ["check_fingerprint", "fingerprint", "read_state", "write_state"]


def write_state(
    path: str | Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a state.

    Args:
        path: the file.
        config: of the model that made the state.
        tensors: of the state, by name.
        weights: the model's state dict; its fingerprint is written too.
    """
    metadata = {"config": json.dumps(config.to_dict())}
    if weights is not None:
        metadata["model"] = fingerprint(weights)
    unshared = {k: v.contiguous() for k, v in _unshared(tensors).items()}
    metadata["sha256"] = _digest(unshared)
    with replacing(path) as part:
        save_file(unshared, part, metadata)


def read_state(
    path: str | Path, device: torch.device | str
) -> tuple[ModelConfig, dict[str, Tensor], str | None]:
    """Read what `write_state` wrote.

    Returns:
        the config, the tensors, and the fingerprint of the model's weights if it was written.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds no state.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no saved state at {path}")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); save it again") from error
    if "config" not in metadata or "position" not in tensors:
        raise ValueError(f"{path} is no saved state; give a file that ModelState.save wrote")
    config = ModelConfig.from_dict(json.loads(metadata["config"]))
    wanted = [f"{i}.{name}" for i in range(config.n_layers) for name in MambaState._fields]
    if missing := [name for name in wanted if name not in tensors]:
        raise ValueError(f"{path} is incomplete: {', '.join(missing)} missing; save it again")
    if "sha256" in metadata and metadata["sha256"] != _digest(tensors):
        raise ValueError(f"{path} is damaged: its numbers are not those saved; save it again")
    return config, tensors, metadata.get("model")


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A short name of a model's weights: a hash over up to 64 values of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_fingerprint(path: str | Path, saved: str | None, weights: Mapping[str, Tensor]) -> None:
    """Compare the weights that a state was saved with to those that are to continue from it.

    Raises:
        ValueError: they differ.
    """
    if saved is not None and saved != fingerprint(weights):
        raise ValueError(
            f"{path} was made by a model of this shape with other weights; "
            "load the weights that it was saved with, or prefill again"
        )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory, as the blocks of ModelState.zeros do."""
    seen: set[int] = set()
    found = {}
    for name, x in tensors.items():
        found[name] = x.clone() if x.numel() and x.data_ptr() in seen else x
        seen.add(x.data_ptr())
    return found
