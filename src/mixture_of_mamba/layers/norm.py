"""RMS norm; torch's own, named for the field."""

from torch import nn

__all__ = ["RMSNorm"]

RMSNorm = nn.RMSNorm
