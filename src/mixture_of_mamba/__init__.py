"""Mixture-of-Mamba: a Mamba block with one weight per modality in its projections."""

__version__ = "0.1.0"
