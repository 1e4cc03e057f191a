"""What a model costs: floating-point operations per token, and its parameters.

A multiply-add is two operations. Counted: every projection, the convolution, the scan, attention
and the heads. Not counted: look-ups, norms, residual additions, activations of the transformer
blocks, softmax and loss. A projection with one weight per modality costs what the shared one costs,
because each token meets one expert; so all variants of a model have the same number.

The convention is that of `torch.utils.flop_counter`, which the tests hold these numbers to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from ..flop_formulas import conv_flops, scan_flops
from .config import FREQUENCIES, ModelConfig

__all__ = ["flops_breakdown", "flops_per_token", "parameter_counts"]


def flops_per_token(
    config: ModelConfig,
    *,
    training: bool = True,
    window: int = 256,
    counts: Mapping[str, float] | None = None,
) -> int:
    """Operations for one token of a window, rounded; see flops_breakdown for the arguments."""
    parts = flops_breakdown(config, training=training, window=window, counts=counts)
    return round(sum(parts.values()))


def flops_breakdown(
    config: ModelConfig,
    *,
    training: bool = True,
    window: int = 256,
    counts: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Operations for one token by part: projections, convolution, scan, attention, heads.

    Args:
        config: the model; its `split` does not matter.
        training: count the backward pass too: twice the forward, but once where the input needs no
            gradient. Recomputation is not counted.
        window: tokens that attention compares each token with. A dense kernel works on the whole
            square of a window, so masked pairs count. The Mamba blocks do not depend on it.
        counts: tokens (or shares of them) by modality, for the projections that only continuous
            modalities meet; equal shares by default.
    """
    parts = _mamba(config) if config.mixer == "mamba" else _transformer(config, window)
    parts["head"] = _matrix(config.d_model, config.vocabulary_size)
    found: dict[str, float] = {k: flops * (3 if training else 1) for k, flops in parts.items()}
    if not all(m.discrete for m in config.modalities):
        counts = counts or dict.fromkeys(config.names, 1)
        total = sum(counts.values())
        found["continuous maps"] = sum(
            counts.get(m.name, 0) / total * _continuous(config.d_model, m.size, training)
            for m in config.modalities
            if not m.discrete
        )
    return found


def _matrix(width: int, out: int) -> int:
    """One row through a (width -> out) matrix."""
    return 2 * width * out


def _continuous(d: int, dim: int, training: bool) -> int:
    """The projections of one vector: into the network, of timestep and position, and out."""
    first = _matrix(dim, d) + _matrix(2 * FREQUENCIES, d)  # of inputs without a gradient
    later = _matrix(d, d) + _matrix(d, dim)
    return 2 * first + 3 * later if training else first + later


def _mamba(config: ModelConfig) -> dict[str, int]:
    """All Mamba blocks."""
    block, blocks = config.block, config.n_layers
    d, inner, n = block.d_model, block.d_inner, block.d_state
    projections = (
        _matrix(d, 2 * inner)
        + _matrix(inner, block.rank + 2 * n)
        + _matrix(block.rank, inner)
        + _matrix(inner, d)
    )
    return {
        "projections": blocks * projections,
        "convolution": blocks * conv_flops(1, inner, block.d_conv),
        "scan": blocks * scan_flops(1, inner, n),
    }


def _transformer(config: ModelConfig, window: int) -> dict[str, int]:
    """All attention blocks and MLP blocks; they alternate, attention first."""
    d = config.d_model
    mlps = config.n_layers // 2
    attentions = config.n_layers - mlps
    return {
        "projections": attentions * (_matrix(d, 3 * d) + _matrix(d, d))
        + mlps * 2 * _matrix(d, 4 * d),
        "attention": attentions * 2 * _matrix(d, window),  # queries x keys, weights x values
    }


def parameter_counts(shapes: Mapping[str, Sequence[int]], config: ModelConfig) -> tuple[int, int]:
    """All parameters, and those that one token meets: one expert of each split projection.

    Args:
        shapes: of the parameters, by name.
    """
    total, idle, n = 0, 0, len(config.modalities)
    for name, shape in shapes.items():
        count = prod(shape)
        total += count
        split = name.startswith("backbone.") and "proj" in name and len(shape) >= 2
        if split and shape[0] == n > 1:
            idle += count * (n - 1) // n
    return total, total - idle
