"""Floating-point operations per token, from the config alone.

A multiply-add is two operations. Counted: every projection, the convolution, the scan, attention
and the heads. Not counted: look-ups, norms, residual additions, activations of the transformer
blocks, softmax and loss. A projection with one weight per modality costs what the shared one costs,
because each token meets one expert; so all variants of a model have the same number.

The convention is that of `torch.utils.flop_counter`, which the tests hold these numbers to.
"""

from __future__ import annotations

from ..ops.causal_conv1d import conv_flops
from ..ops.selective_scan import scan_flops
from .config import ModelConfig

__all__ = ["flops_breakdown", "flops_per_token"]


def flops_per_token(
    config: ModelConfig,
    *,
    training: bool = True,
    window: int = 256,
) -> int:
    """Operations for one token of a window; see flops_breakdown for the arguments."""
    parts = flops_breakdown(config, training=training, window=window)
    return sum(parts.values())


def flops_breakdown(
    config: ModelConfig,
    *,
    training: bool = True,
    window: int = 256,
) -> dict[str, int]:
    """Operations for one token by part: projections, convolution, scan, attention, head.

    Args:
        config: the model; its `split` does not matter.
        training: count the backward pass too, as twice the forward; recomputation is not counted.
        window: tokens that attention compares each token with. A dense kernel works on the whole
            square of a window, so masked pairs count. The Mamba blocks do not depend on it.
    """
    parts = _mamba(config) if config.mixer == "mamba" else _transformer(config, window)
    parts["head"] = _matrix(config.d_model, config.vocabulary_size)
    return {name: flops * (3 if training else 1) for name, flops in parts.items()}


def _matrix(width: int, out: int) -> int:
    """One row through a (width -> out) matrix."""
    return 2 * width * out


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
