"""What a multi-modal model is made of, as data: modalities, widths, and which projections split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from ..layers import PROJECTIONS, MambaConfig, parse_split
from ..seeding import whole_number
from .diffusion_config import DiffusionConfig
from .reserved_names import is_reserved

if TYPE_CHECKING:
    from ..batch import Batch

__all__ = ["FREQUENCIES", "Modality", "ModelConfig"]

#: Sines and cosines of a timestep, and of a position in a segment (models/continuous.py).
FREQUENCIES = 64


@dataclass(frozen=True)
class Modality:
    """One modality, declared by what its tokens are.

    Attributes:
        name: "text", "image", …
        kind: "discrete" (ids, cross entropy) or "continuous" (vectors, a diffusion loss).
        size: vocabulary size, or width of the vectors.
        loss_weight: its weight in the total loss; where left out, 1 for a discrete modality and
            Transfusion's 5 (arXiv 2408.11039, section 3.2) for a continuous one.
    """

    name: str
    kind: Literal["discrete", "continuous"]
    size: int
    loss_weight: float = None  # type: ignore[assignment]  # resolved below

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a modality's name is {self.name!r}; it needs one, as text")
        if wrong := [c for c in self.name if not (c.isalnum() or c in "_- ")]:
            raise ValueError(
                f"the modality's name {self.name!r} holds {wrong[0]!r}; weights, files and options "
                "are named after it, so it is made of letters, digits, '_', '-' and spaces"
            )
        if self.name == "shared" or (self.kind == "continuous" and is_reserved(self.name)):
            raise ValueError(
                f"a {self.kind} modality cannot be called {self.name!r}, which means something "
                f"else; call it {self.name + '_data'!r}, say"
            )
        if self.kind not in ("discrete", "continuous"):
            raise ValueError(
                f"modality {self.name!r} is of kind {self.kind!r}; "
                "choose 'discrete' or 'continuous'"
            )
        object.__setattr__(self, "size", whole_number(self.size, f"size of {self.name!r}"))
        if self.size < 1:
            raise ValueError(f"modality {self.name!r} has size {self.size}; it must be at least 1")
        if self.loss_weight is None:
            object.__setattr__(self, "loss_weight", 1.0 if self.discrete else 5.0)
        if isinstance(self.loss_weight, str) or not 0 <= self.loss_weight < math.inf:
            raise ValueError(
                f"modality {self.name!r} has loss_weight {self.loss_weight!r}; give 0 or more"
            )

    @property
    def discrete(self) -> bool:
        return self.kind == "discrete"


def _modality(given: Any) -> Modality:
    """A modality as it is, or from a mapping of its fields."""
    if isinstance(given, Modality):
        return given
    known = [f.name for f in fields(Modality)]
    if not isinstance(given, Mapping):
        raise TypeError(
            f"a modality is {given!r}; give Modality(name, kind, size), or a mapping of {known}"
        )
    if unknown := set(given) - set(known):
        raise ValueError(f"a modality has unknown fields {sorted(unknown)}; choose from {known}")
    if missing := [n for n in known[:3] if n not in given]:
        raise ValueError(f"modality {given.get('name', '?')!r} lacks {', '.join(missing)}")
    return Modality(**given)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network over interleaved modalities.

    Attributes:
        d_model: width of the residual stream.
        n_layers: number of blocks (two Mamba blocks stand for one transformer layer, and one
            attention block plus one MLP block do too).
        modalities: in the order of their ids.
        split: projections with one weight per modality; empty is the dense model.
        mixer: "mamba", or "attention" for the transformer baselines.
        d_state, d_conv, expand, dt_rank, conv_bias, bias: of the Mamba blocks, see MambaConfig.
        head_dim: of the attention blocks.
        vocabulary: "shared": one softmax over all discrete vocabularies (Chameleon); "separate":
            each target's softmax runs over the vocabulary of its own modality.
        tie_embeddings: the output map is the embedding.
        norm_eps: of all RMS norms.
        diffusion: of continuous modalities; also as a mapping of its fields.
    """

    d_model: int
    n_layers: int
    modalities: Sequence[Modality]
    split: frozenset[str] = PROJECTIONS
    mixer: Literal["mamba", "attention"] = "mamba"
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    dt_rank: int | None = None
    conv_bias: bool = True
    bias: bool = False
    head_dim: int = 64
    vocabulary: Literal["shared", "separate"] = "shared"
    tie_embeddings: bool = False
    norm_eps: float = 1e-5
    diffusion: DiffusionConfig | Mapping[str, Any] = field(default_factory=DiffusionConfig)

    def __post_init__(self) -> None:
        modalities = tuple(map(_modality, self.modalities))
        object.__setattr__(self, "modalities", modalities)
        object.__setattr__(self, "split", parse_split(self.split))
        if not modalities:
            raise ValueError("a model needs at least one modality")
        names = [m.name for m in modalities]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"modality names must differ; {sorted(twice)} appear twice")
        if not any(m.discrete for m in modalities):
            raise ValueError("a model needs at least one discrete modality, to open the others")
        for name in ("d_model", "n_layers", "d_state", "d_conv", "head_dim"):
            value = whole_number(getattr(self, name), name)
            object.__setattr__(self, name, value)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps is {self.norm_eps}; it must be above 0")
        if self.mixer not in ("mamba", "attention"):
            raise ValueError(f"mixer is {self.mixer!r}; choose 'mamba' or 'attention'")
        if self.vocabulary not in ("shared", "separate"):
            raise ValueError(f"vocabulary is {self.vocabulary!r}; choose 'shared' or 'separate'")
        if self.mixer == "attention" and self.d_model % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide d_model {self.d_model}")
        self.block  # noqa: B018  (raises where the block's own fields are wrong)
        object.__setattr__(self, "diffusion", DiffusionConfig.parse(self.diffusion))

    @property
    def block(self) -> MambaConfig:
        """The shape of one Mamba block."""
        return MambaConfig(
            d_model=self.d_model,
            n_modalities=len(self.modalities),
            split=self.split,
            d_state=self.d_state,
            d_conv=self.d_conv,
            expand=self.expand,
            dt_rank=self.dt_rank,
            conv_bias=self.conv_bias,
            bias=self.bias,
            norm_eps=self.norm_eps,
        )

    def check(self, batch: Batch) -> None:
        """Compare a batch to these modalities.

        Raises:
            ValueError: a modality id, token id or value array that the model cannot take.
        """
        sizes, discrete = zip(*((m.size, m.discrete) for m in self.modalities), strict=True)
        batch.check(self.names, sizes, discrete)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modalities)

    @property
    def vocabulary_size(self) -> int:
        """Entries of all discrete vocabularies together."""
        return sum(m.size for m in self.modalities if m.discrete)

    @property
    def vocabulary_ranges(self) -> tuple[tuple[int, int], ...]:
        """Per modality, its [low, high) in the joint vocabulary; (0, 0) where continuous."""
        ranges, low = [], 0
        for m in self.modalities:
            ranges.append((low, low + m.size) if m.discrete else (0, 0))
            low += m.size if m.discrete else 0
        return tuple(ranges)

    def index(self, name: str) -> int:
        """The id of a modality.

        Raises:
            ValueError: the model has no such modality.
        """
        if name not in self.names:
            raise ValueError(f"this model has no modality {name!r}; it has {list(self.names)}")
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json; `ModelConfig(**d)` reads them back."""
        plain = asdict(self)
        plain["split"] = sorted(self.split)
        plain["modalities"] = [asdict(m) for m in self.modalities]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelConfig:
        """The config of a saved model.

        Raises:
            ValueError: a field that this version does not know.
        """
        if unknown := set(plain) - {f.name for f in fields(cls)}:
            raise ValueError(
                f"the model's config has unknown fields {sorted(unknown)}; "
                "was it written by a newer version?"
            )
        return cls(**plain)
