"""Loading a model folder of any supported format."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json
from ..models import MultimodalModel
from .formats import format_of
from .pretrained import load_dense

__all__ = ["load_model"]


def load_model(folder: str | Path) -> MultimodalModel:
    """The model of a folder, on the CPU in float32 or as it was saved.

    Args:
        folder: a checkpoint of state-spaces/mamba or transformers (Mamba, or this package's
            Mixture-of-Mamba), a folder that `save_pretrained` wrote, or a run folder.

    Raises:
        FileNotFoundError: no model in the folder.
        ValueError: another architecture, or files that cannot be read (see load_dense).
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"  # a run folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: config.json is missing; give a checkpoint folder of "
            "state-spaces or transformers, a model folder, or a run folder"
        )
    style = format_of(read_json(folder / "config.json"))
    if style == "ours":
        return MultimodalModel.from_pretrained(folder)
    if style == "mixture-hf":
        from .hf import MixtureOfMambaForCausalLM, to_multimodal

        return to_multimodal(MixtureOfMambaForCausalLM.from_pretrained(folder))
    return load_dense(folder)
