"""Sampling of continuous modalities: denoising from a snapshot of the state."""

from .denoise import Denoised, denoise, empty_context
from .options import DiffusionOptions

__all__ = ["Denoised", "DiffusionOptions", "denoise", "empty_context"]
