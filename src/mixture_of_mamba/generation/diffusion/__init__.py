"""Sampling of continuous modalities: denoising from the state before a segment."""

from .denoise import Denoised, denoise, empty_context
from .options import DiffusionOptions
from .progress import SegmentProgress
from .sampler import DiffusionSampler

__all__ = [
    "Denoised",
    "DiffusionOptions",
    "DiffusionSampler",
    "SegmentProgress",
    "denoise",
    "empty_context",
]
