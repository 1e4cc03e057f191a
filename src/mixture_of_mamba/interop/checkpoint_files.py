"""Reading the tensors of a checkpoint folder: safetensors or torch.save files, sharded or not.

A PyTorch `.bin` file is a pickle, and a pickle can run code when it is read. Here it is read with
`weights_only=True`: a file that asks for anything but tensors is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import read_json
from ..models.saving import read_tensors

__all__ = ["read_checkpoint"]

#: In order of preference: no file of the first kinds can run code.
_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU, under the names of the file.

    Raises:
        FileNotFoundError: no weights, or a shard that the index names is missing.
        ValueError: a truncated or damaged file, a tensor that two shards hold, or a pickle that
            asks to run code.
    """
    for name in _FILES:
        if (folder / name).is_file():
            if not name.endswith(".json"):
                return _read(folder / name)
            return _read_shards(folder, name)
    raise FileNotFoundError(f"{folder} holds no weights; one of {', '.join(_FILES)} is needed")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file, which may hold nothing else.

    Raises:
        ValueError: the file asks to run code, is damaged, or is not a table of tensors.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK" and not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is damaged or truncated; copy it again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: this pickle holds more than tensors and could run code while it "
            f"is read ({_first_line(error)}). Ask its author for safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged or truncated ({_first_line(error)}); copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a table of tensors; save model.state_dict()")
    return state


def _read(path: Path) -> dict[str, Tensor]:
    return read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_shards(folder: Path, index: str) -> dict[str, Tensor]:
    table = read_json(folder / index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{folder / index} has no weight_map; copy the checkpoint again")
    tensors: dict[str, Tensor] = {}
    for shard in _shard_paths(folder, sorted(set(table.values())), index):
        part = _read(shard)
        if twice := tensors.keys() & part.keys():
            raise ValueError(f"{shard} holds tensors of an earlier shard: {sorted(twice)[:5]}")
        tensors |= part
    if lost := sorted(set(table) - tensors.keys()):
        raise ValueError(f"{folder / index} names tensors that no shard holds: {lost[:5]}")
    return tensors


def _shard_paths(folder: Path, names: list[Any], index: str) -> Iterator[Path]:
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{folder / index} names a shard outside its folder: {name!r}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, but {index} names it")
        yield folder / name


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
