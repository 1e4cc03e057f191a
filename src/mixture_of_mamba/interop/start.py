"""The first weights of a run, from a pretrained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..modalities.tokenizer_set import special_tokens
from ..models import ModelConfig, MultimodalModel
from .growth import grown_config
from .loading import load_model
from .upcycle import frozen_parts, upcycle

__all__ = ["Start", "start_from"]

_SETTINGS = ("d_model", "n_layers", "d_state", "expand", "mixer", "tie_embeddings")
_FIXED = ("d_conv", "conv_bias", "bias", "norm_eps")


class Start:
    """A pretrained model that a run is to start from, read and checked before data is prepared.

    Args:
        folder: see start_from.
        settings: the network of the run as far as its settings say: the sizes of modalities are
            the largest that they can have, or 1 where that is not known.

    Attributes:
        frozen: parts that `mom upcycle --freeze` names in the folder; () where it names none.
        kept: by name of its discrete modalities, how many tokens are to be kept as they are.

    Raises:
        FileNotFoundError, ValueError: as start_from, but for the sizes that come with the data.
    """

    def __init__(self, folder: str | Path, settings: ModelConfig) -> None:
        self.folder, self.source = folder, load_model(folder)
        self.frozen, kept = frozen_parts(folder)
        sizes = {m.name: m.size for m in self.source.config.modalities if m.discrete}
        self.kept = {**sizes, **kept}
        _same_shape(folder, self.source.config, settings)
        if settings.modalities[0].size > 1:
            _room_for_text(folder, self.source.config, settings)
        known = {m.name: m.size for m in self.source.config.modalities}
        wanted = [replace(m, size=known.get(m.name, m.size)) for m in settings.modalities]
        grown_config(self.source.config, wanted, settings.split)

    def __call__(self, config: ModelConfig, *, seed: int = 0) -> MultimodalModel:
        """The first weights of the run; see start_from."""
        _same_shape(self.folder, self.source.config, config)
        _room_for_text(self.folder, self.source.config, config)
        grown = upcycle(self.source, config.modalities, split=config.split, seed=seed).model
        model = MultimodalModel(config, seed=seed)
        model.load_state_dict(grown.state_dict())
        return model


def start_from(folder: str | Path, config: ModelConfig, *, seed: int = 0) -> MultimodalModel:
    """A model of `config` whose weights continue those of a checkpoint.

    Every expert starts as the weight that the checkpoint has in its place; tokens keep their ids
    and rows. What the checkpoint does not have (further modalities, special tokens) is drawn.

    Args:
        folder: a dense checkpoint of state-spaces/mamba or transformers, or a model of this
            package: a run's model/, or what `mom upcycle` wrote.
        config: of the model that is wanted; its first modalities are those of the checkpoint.
        seed: of what is drawn.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: one of another shape (the fields are named), of other modalities, or of more
            text tokens than the config leaves room for.
    """
    return Start(folder, config)(config, seed=seed)


def _same_shape(folder: str | Path, old: ModelConfig, new: ModelConfig) -> None:
    wrong = [name for name in _SETTINGS if getattr(old, name) != getattr(new, name)]
    if wrong:
        flags = " ".join(f"--model.{name} {str(getattr(old, name)).lower()}" for name in wrong)
        raise ValueError(f"{folder} has another shape than this run; give {flags}")
    fixed = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
    if old.block.rank != new.block.rank:
        fixed.append("dt_rank")
    if fixed:
        raise ValueError(
            f"{folder} has {', '.join(fixed)} that a run's settings do not offer; train it in a "
            "loop of your own, see docs/interop.md"
        )


def _room_for_text(folder: str | Path, old: ModelConfig, new: ModelConfig) -> None:
    """Special tokens come behind the checkpoint's text tokens, which its vocabulary may pad."""
    before, after = old.modalities[0], new.modalities[0]
    if not before.discrete or old.names == new.names:
        return
    if after.size <= before.size:
        special = len(special_tokens((m.name, m.kind) for m in new.modalities[1:]))
        raise ValueError(
            f"{folder} has {before.size} text tokens, but the data's text has {after.size} with "
            f"its {special} special tokens; give "
            f"--modalities.text.vocabulary {before.size + special}"
        )
