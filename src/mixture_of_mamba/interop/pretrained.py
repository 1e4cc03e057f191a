"""Loading and saving dense Mamba-1 checkpoints of state-spaces/mamba and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files import read_json, replacing, write_json
from ..models import ModelConfig, MultimodalModel
from ..models.saving import check_shapes, shapes_of
from .checkpoint_files import read_checkpoint
from .formats import (
    format_of,
    model_config_of,
    state_spaces_config,
    tensor_names,
    transformers_config,
)

__all__ = ["load_dense", "save_state_spaces", "save_transformers"]

_HEAD = "lm_head.weight"
#: Kept in float32 whatever the dtype of the weights: they set the decay of the state.
_WIDE = (".A_log", ".D")


def load_dense(
    folder: str | Path,
    *,
    name: str = "text",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MultimodalModel:
    """A pretrained dense Mamba-1 as a model of one discrete modality.

    Args:
        folder: with config.json and the weights, as state-spaces/mamba (pytorch_model.bin) or
            transformers (model.safetensors, also in shards) write them. Nothing is downloaded.
        name: of the modality.
        dtype: of the weights; A_log and D are float32 or wider.

    Raises:
        FileNotFoundError: no such folder, config or weights.
        ValueError: another architecture; damaged files; a pickle that could run code; missing,
            extra or misshapen tensors, all named.

    Example:
        >>> model = load_dense("mamba-130m-hf")
        >>> model.config.modalities
        (Modality(name='text', kind='discrete', size=50280, loss_weight=1.0),)
    """
    folder = Path(folder)
    plain = read_json(folder / "config.json")
    style = format_of(plain)
    if style not in ("state-spaces", "transformers"):
        raise ValueError(
            f"{folder} is not a dense checkpoint of state-spaces or transformers; "
            "read it with MultimodalModel.from_pretrained"
            + (" after converting it (interop.hf)" if style == "mixture-hf" else "")
        )
    tensors = read_checkpoint(folder)
    config = _config(folder, style, plain, tensors, name)
    names = tensor_names(style, config.n_layers, bias=config.bias, conv_bias=config.conv_bias)
    if config.tie_embeddings:
        tensors.pop(_HEAD, None)
    else:
        names[_HEAD] = "head.weight"
    with torch.device("meta"):
        model = MultimodalModel(config)
    shapes = shapes_of(model.state_dict())
    wanted = {theirs: _theirs(ours, shapes[ours]) for theirs, ours in names.items()}
    check_shapes(wanted, tensors, str(folder))
    state = {
        ours: tensors[theirs].to(device, _dtype(theirs, dtype)).reshape(shapes[ours])
        for theirs, ours in names.items()
    }
    model.take_weights(state, device)
    return model


def save_state_spaces(model: MultimodalModel, folder: str | Path) -> None:
    """Write config.json and pytorch_model.bin for state-spaces/mamba.

    Raises:
        ValueError: the model is not a dense Mamba-1 over discrete tokens; see `interop.merge`.
    """
    config = _dense(model)
    tensors = _tensors(model, "state-spaces")
    tensors.setdefault(_HEAD, tensors["backbone.embedding.weight"])
    folder = Path(folder)
    # through a file of Python's, whose errors say what the system said
    with replacing(folder / "pytorch_model.bin") as part, part.open("wb") as file:
        torch.save(tensors, file)
    write_json(folder / "config.json", state_spaces_config(config), indent=2)


def save_transformers(model: MultimodalModel, folder: str | Path) -> None:
    """Write config.json and model.safetensors for transformers' MambaForCausalLM.

    Raises:
        ValueError: the model is not a dense Mamba-1 over discrete tokens; see `interop.merge`.
    """
    config = _dense(model)
    tensors = _tensors(model, "transformers")
    folder = Path(folder)
    with replacing(folder / "model.safetensors") as part:
        save_file(tensors, part, metadata={"format": "pt"})
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    write_json(folder / "config.json", transformers_config(config, dtype), indent=2)


def _config(
    folder: Path, style: str, plain: Mapping[str, Any], tensors: dict[str, Tensor], name: str
) -> ModelConfig:
    embeddings = [
        k for k in ("backbone.embedding.weight", "backbone.embeddings.weight") if k in tensors
    ]
    if len(embeddings) != 1:
        raise ValueError(
            f"{folder} has {len(embeddings)} embeddings; exactly one of "
            "backbone.embedding.weight (state-spaces) and backbone.embeddings.weight "
            f"(transformers) is needed; its tensors are {sorted(tensors)[:4]} …"
        )
    table = tensors[embeddings[0]]
    if style == "transformers":  # whose first releases kept state-spaces' name
        tensors["backbone.embeddings.weight"] = tensors.pop(embeddings[0])
    tied = _HEAD not in tensors or (
        tensors[_HEAD].shape == table.shape and torch.equal(tensors[_HEAD], table)
    )
    try:
        return model_config_of(style, plain, vocabulary=table.shape[0], tied=tied, name=name)
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks the field {error}") from error


def _theirs(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Their shape of one of our tensors: projections without the axis of experts."""
    return shape[1:] if "_proj." in ours else shape


def _dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if name.endswith(_WIDE) else dtype


def _dense(model: MultimodalModel) -> ModelConfig:
    config = model.config
    if config.mixer != "mamba":
        raise ValueError(f"the model's mixer is {config.mixer!r}; the format holds Mamba-1 only")
    if any(config.block.experts(p) > 1 for p in config.split):
        raise ValueError(
            f"the model has {len(config.modalities)} experts in {sorted(config.split)}, but the "
            "format holds dense models; merge the experts first (interop.merge)"
        )
    if continuous := [m.name for m in config.modalities if not m.discrete]:
        raise ValueError(f"modalities {continuous} are continuous; the format holds tokens only")
    return config


def _tensors(model: MultimodalModel, style: str) -> dict[str, Tensor]:
    config = model.config
    state = model.state_dict()
    names = tensor_names(style, config.n_layers, bias=config.bias, conv_bias=config.conv_bias)
    if not config.tie_embeddings:
        names[_HEAD] = "head.weight"
    return {
        theirs: state[ours].reshape(_theirs(ours, tuple(state[ours].shape))).cpu().contiguous()
        for theirs, ours in names.items()
    }
