"""Sampling of continuous modalities: denoising from the state before a segment."""

from ..options import DiffusionOptions
from .denoise import Denoised, denoise, empty_context
from .progress import SegmentProgress
from .sampler import DiffusionSampler
from .schedulers import sampling_scheduler

__all__ = [
    "Denoised",
    "DiffusionOptions",
    "DiffusionSampler",
    "SegmentProgress",
    "denoise",
    "empty_context",
    "sampling_scheduler",
]
