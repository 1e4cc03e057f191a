"""The shape of one Mamba block, validated at construction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["PROJECTIONS", "PROJECTION_ORDER", "MambaConfig", "parse_split"]

#: The four projections of a Mamba block that can have one weight per modality, in order of use.
PROJECTION_ORDER = ("in_proj", "x_proj", "dt_proj", "out_proj")

#: The same as a set, for `split`.
PROJECTIONS = frozenset(PROJECTION_ORDER)


def parse_split(split: Iterable[str] | str) -> frozenset[str]:
    """`split` as a set: an iterable of projection names, or "all", "none", or "in_proj+out_proj".

    Raises:
        ValueError: a name that is not a projection.
    """
    if isinstance(split, str):
        named = {"all": PROJECTIONS, "none": frozenset[str](), "": frozenset[str]()}
        split = named.get(split, frozenset(split.replace(",", "+").split("+")))
    split = frozenset(split)
    if unknown := split - PROJECTIONS:
        raise ValueError(
            f"split has unknown projections {sorted(unknown)}; choose from {sorted(PROJECTIONS)}"
        )
    return split


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """One Mamba-1 block (arXiv 2312.00752) with projections split by modality (arXiv 2501.16295).

    Attributes:
        d_model: width of the residual stream.
        n_modalities: number of modalities `m`; each split projection has `m` weights.
        split: projections with one weight per modality. `frozenset()` is dense Mamba-1.
        d_state: states per channel `n`.
        d_conv: convolution taps `k`.
        expand: inner width / d_model; need not be whole, the inner width is rounded down.
        dt_rank: rank of the step-size projection; None: ceil(d_model / 16).
        conv_bias, bias: biases of the convolution, and of in_proj and out_proj.
        dt_min, dt_max, dt_init_floor: range of the initial step sizes.
        norm_eps: of the RMS norm before the mixer.
    """

    d_model: int
    n_modalities: int = 1
    split: frozenset[str] = PROJECTIONS
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    dt_rank: int | None = None
    conv_bias: bool = True
    bias: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dt_init_floor: float = 1e-4
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", parse_split(self.split))
        for name in ("d_model", "n_modalities", "d_state", "d_conv"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.expand > 0 or self.d_inner < 1:
            raise ValueError(
                f"expand is {self.expand}; expand * d_model ({self.d_model}) must be at least 1"
            )
        if self.dt_rank is not None and self.dt_rank < 1:
            raise ValueError(f"dt_rank is {self.dt_rank}; give at least 1, or None for the default")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(f"need 0 < dt_min <= dt_max, got {self.dt_min} and {self.dt_max}")

    @property
    def d_inner(self) -> int:
        return int(self.expand * self.d_model)

    @property
    def rank(self) -> int:
        return self.dt_rank or math.ceil(self.d_model / 16)

    def experts(self, projection: str) -> int:
        """Number of weights of a projection: `n_modalities` where it is split, else 1."""
        return self.n_modalities if projection in self.split else 1
