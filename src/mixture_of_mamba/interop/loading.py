"""Loading a model folder of any supported format."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json
from ..models import MultimodalModel
from ..models.saving import CONFIG
from .formats import format_of
from .pretrained import load_dense

__all__ = ["load_model", "model_folder"]


def model_folder(folder: str | Path) -> Path:
    """The folder itself, or the `model/` in it where it is a run's."""
    folder = Path(folder)
    inner = folder / "model"
    is_run = not (folder / CONFIG).is_file() and (inner / CONFIG).is_file()
    return inner if is_run else folder


def load_model(folder: str | Path) -> MultimodalModel:
    """The model of a folder, on the CPU in float32 or as it was saved.

    Args:
        folder: a checkpoint of state-spaces/mamba or transformers (Mamba, or this package's
            Mixture-of-Mamba), a folder that `save_pretrained` wrote, or a run folder.

    Raises:
        FileNotFoundError: no model in the folder.
        ValueError: another architecture, or files that cannot be read (see load_dense).
    """
    folder = model_folder(folder)
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: config.json is missing; give a checkpoint folder of "
            "state-spaces or transformers, a model folder, or a run folder"
        )
    style = format_of(read_json(folder / CONFIG))
    if style == "ours":
        return MultimodalModel.from_pretrained(folder)
    if style == "mixture-hf":
        from .hf import MixtureOfMambaForCausalLM, to_multimodal

        return to_multimodal(MixtureOfMambaForCausalLM.from_pretrained(folder))
    return load_dense(folder)
