"""The configuration of a Mixture-of-Mamba in transformers' terms."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from ...layers import parse_split
from ...models import Modality, ModelConfig
from ..formats import TRANSFORMERS_NAMES, rank_or_default
from ..growth import parse_modality

__all__ = ["MixtureOfMambaConfig"]


class MixtureOfMambaConfig(PreTrainedConfig):  # type: ignore[misc]
    """Shape of a `MixtureOfMambaForCausalLM`; the names are those of transformers' MambaConfig.

    Args:
        modalities: discrete modalities in the order of their ids, as "image:discrete:1024",
            {"name": "image", "kind": "discrete", "size": 1024} or Modality. Token ids are joint:
            each modality's vocabulary follows the one before it.
        split: projections with one weight per modality: "all", "none", or names.
        vocabulary: "shared": one softmax over all vocabularies; "separate": the loss of each token
            is taken over the vocabulary of its own modality.
        hidden_size, num_hidden_layers, state_size, expand, conv_kernel, time_step_rank, use_bias,
            use_conv_bias, layer_norm_epsilon, tie_word_embeddings: as in MambaConfig.
        initializer_range: standard deviation of new embeddings.
        vocab_size: the sum of the modalities' sizes; derived.

    Raises:
        ValueError: a continuous modality, or fields that do not fit together.
        TypeError: a field that is misspelt, or has ModelConfig's name. Other unknown fields are
            kept, as transformers does.
    """

    model_type = "mixture_of_mamba"
    keys_to_ignore_at_inference = ["cache"]  # noqa: RUF012  (the Trainer adds to a list)

    modalities: Any = ("text:discrete:50280",)
    split: Any = "all"
    vocabulary: str = "shared"
    hidden_size: int = 768
    num_hidden_layers: int = 24
    state_size: int = 16
    expand: int | float = 2
    conv_kernel: int = 4
    time_step_rank: int | str = "auto"
    use_bias: bool = False
    use_conv_bias: bool = True
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = True
    vocab_size: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _refuse_misspelt(kwargs, [f.name for f in fields(self)])
        listed = [_modality(m) for m in self.modalities]
        if continuous := [m.name for m in listed if not m.discrete]:
            raise ValueError(
                f"modalities {continuous} are continuous; the classes for transformers take "
                "tokens only; use MultimodalModel"
            )
        self.modalities = [
            {"name": m.name, "kind": m.kind, "size": m.size, "loss_weight": m.loss_weight}
            for m in listed
        ]
        self.split = sorted(parse_split(self.split))
        total = sum(m.size for m in listed)
        if self.vocab_size not in (None, total):
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but the modalities have {total} tokens "
                "together; leave vocab_size out"
            )
        self.vocab_size = total
        if self.time_step_rank == "auto":
            self.time_step_rank = -(-self.hidden_size // 16)
        self.to_model_config()  # raises where the fields do not fit together
        super().__post_init__(**kwargs)

    @property
    def layer_types(self) -> list[str]:
        """How transformers' caches keep the state of each block."""
        return ["linear_attention"] * self.num_hidden_layers

    def to_model_config(self) -> ModelConfig:
        """The same as this package's configuration."""
        shared = {ours: getattr(self, theirs) for ours, theirs in TRANSFORMERS_NAMES.items()}
        shared["dt_rank"] = rank_or_default(self.time_step_rank, self.hidden_size)
        return ModelConfig(
            **shared,
            modalities=[Modality(**m) for m in self.modalities],
            split=parse_split(self.split),
            vocabulary=self.vocabulary,  # type: ignore[arg-type]
        )

    @classmethod
    def from_model_config(cls, config: ModelConfig, **kwargs: Any) -> MixtureOfMambaConfig:
        """The configuration of a MultimodalModel, in transformers' terms.

        Raises:
            ValueError: a continuous modality, or another mixer than Mamba.
        """
        if config.mixer != "mamba":
            raise ValueError(f"the model's mixer is {config.mixer!r}; only Mamba has these classes")
        shared = {theirs: getattr(config, ours) for ours, theirs in TRANSFORMERS_NAMES.items()}
        shared["time_step_rank"] = config.block.rank
        return cls(
            modalities=config.modalities,
            split=config.split,
            vocabulary=config.vocabulary,
            **shared,
            **kwargs,
        )


def _refuse_misspelt(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise for names that are almost a field's, which would otherwise have its default."""
    for name in given:
        near = [TRANSFORMERS_NAMES[name]] if name in TRANSFORMERS_NAMES else []
        near = near or difflib.get_close_matches(name, known, 1, cutoff=0.85)
        if near:
            raise TypeError(f"MixtureOfMambaConfig has no field {name!r}; is it {near[0]!r}?")


def _modality(given: Any) -> Modality:
    if isinstance(given, Modality):
        return given
    return parse_modality(given) if isinstance(given, str) else Modality(**given)
