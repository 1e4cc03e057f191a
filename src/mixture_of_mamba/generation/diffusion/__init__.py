"""Sampling of continuous modalities: denoising from a snapshot of the state."""

from .denoise import Denoised, denoise, empty_context
from .options import DiffusionOptions
from .progress import ItemBar
from .sampler import DiffusionSampler

__all__ = [
    "Denoised",
    "DiffusionOptions",
    "DiffusionSampler",
    "ItemBar",
    "denoise",
    "empty_context",
]
