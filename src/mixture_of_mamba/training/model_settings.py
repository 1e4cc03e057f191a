"""The part `model` of a run's config."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..models.diffusion_config import DiffusionConfig

__all__ = ["ModelSettings", "freeze_as_recorded"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model of a run; its modalities come from the data."""

    d_model: int = 96
    """Width of the residual stream."""

    n_layers: int = 6
    """Number of blocks; two Mamba blocks stand for one transformer layer."""

    split: str = "all"
    """Projections with one weight per modality: "all", "none" (dense), or some of in_proj, x_proj,
    dt_proj, out_proj joined by "+"."""

    mixer: str = "mamba"
    """"mamba", or "attention" for the transformer baselines."""

    d_state: int = 16
    """States per channel of the scan."""

    expand: int = 2
    """Inner width of a block divided by d_model."""

    head_dim: int = 32
    """Width of one attention head (mixer "attention")."""

    vocabulary: str = "shared"
    """"shared": one softmax over all discrete vocabularies; "separate": one per modality."""

    tie_embeddings: bool = False
    """Whether the output map is the embedding."""

    loss_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a modality's loss, by its name; by default 1, and 5 where it is continuous."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Noise and target of continuous modalities."""

    init_from: str | None = None
    """Folder of a pretrained model whose weights the run starts from: a dense Mamba of
    state-spaces or transformers, or a model of this package. Its text tokenizer goes in
    modalities.text.tokenizer. None: new weights."""

    freeze: list[str] | None = None
    """What training leaves unchanged, to the bit: names of modalities (their experts and tokens;
    NAME:N for its first N tokens), and "shared" (all that modalities share). None: what
    `mom upcycle --freeze` wrote into the folder of `init_from`, else nothing."""


def freeze_as_recorded(asked: list[str] | None, recorded: list[str] | None) -> list[str] | None:
    """What model.freeze asks for in the words of a run's config.yaml: None is all that it records,
    and a modality without a count has the one that is recorded with it."""
    if asked is None:
        return recorded
    counted = {part.partition(":")[0]: part for part in recorded or ()}
    return [counted.get(part, part) for part in asked]
