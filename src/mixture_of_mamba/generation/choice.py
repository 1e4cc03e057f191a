"""Which decoder serves a model: a step past its modules, the model itself, or all tokens anew."""

from __future__ import annotations

from collections.abc import Callable

from ..models import MultimodalModel, precision
from .decoders import CachedDecoder, Decoder, RecomputingDecoder
from .stepping import SteppingDecoder, model_step, why_not_native, why_not_stepping

__all__ = ["decoder_maker"]


def decoder_maker(model: MultimodalModel, weights: str | None = None) -> Callable[[], Decoder]:
    """Makes decoders of the fastest kind that serves this model; they share its prepared weights.

    A decoder holds one batch of sequences: threads that decode at the same time make one each.

    Args:
        model: in evaluation mode. Changes of its weights may not be seen by decoders made here.
        weights: "float32", "bfloat16" or "int8" for native decoding on the CPU with weights in
            this format. None: as the model has them, and natively where that can be. "auto": as
            None, but bfloat16 or float32, whichever is measured to be faster on this machine.

    Raises:
        ValueError: native decoding was asked for by its format and cannot be, with the reason.
    """
    if weights is not None and (native := why_not_native(model)):
        if weights != "auto":
            raise ValueError(f"this model cannot be decoded natively: {native}")
        weights = None
    elif weights == "auto":
        weights = "bfloat16" if precision.decoding().bfloat16 else "float32"
    step = None if why_not_stepping(model) else model_step(model, weights)
    made_for = _place(model)

    def make() -> Decoder:
        # Asked each time: what was hung on a module since must run.
        reason = why_not_stepping(model) if weights is None else why_not_native(model)
        if reason is None:
            known = step if _place(model) == made_for else None
            return SteppingDecoder(model, known or model_step(model, weights))
        if weights is not None:
            raise ValueError(f"this model can no longer be decoded natively: {reason}")
        return CachedDecoder(model) if model.config.mixer == "mamba" else RecomputingDecoder(model)

    return make


def _place(model: MultimodalModel) -> tuple[object, object]:
    """Device and dtype that a step was prepared for."""
    return model.device, model.embedding.weight.dtype
