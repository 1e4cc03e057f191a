"""Decoded samples at evaluations: pictures and sound for TensorBoard, next to their captions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..training.loop import Evaluation
from .errors import one_line

__all__ = ["show_samples"]


def show_samples(count: int) -> Callable[[Evaluation], None]:
    """A callback for `train` that writes `count` generated samples of each modality.

    The captions are those of validation documents. A sample that a half-trained model cannot finish
    is reported once and does not stop the training.
    """
    warned: set[str] = set()

    def callback(evaluation: Evaluation) -> None:
        if evaluation.writer is None or not evaluation.data.validation_examples:
            return
        from ..generation import Generator

        generator = Generator(evaluation.model, evaluation.data.tokenizers)
        captions = [e.caption for e in evaluation.data.validation_examples[:count]]
        names = evaluation.model.config.names
        for name, write in (("image", _images), ("speech", _sounds)):
            if name not in names:
                continue
            try:
                write(generator, captions, evaluation)
            except (ValueError, RuntimeError) as error:
                if name not in warned:
                    print(f"no {name} samples yet: {one_line(error)}", file=sys.stderr)
                warned.add(name)

    return callback


def _images(generator: Any, captions: list[str], evaluation: Evaluation) -> None:
    for i, image in enumerate(generator.to_image(captions, seed=0)):
        tag = f"image/{i}"
        evaluation.writer.add_image(tag, image, evaluation.step, dataformats="HWC")
        evaluation.writer.add_text(tag, captions[i], evaluation.step)


def _sounds(generator: Any, captions: list[str], evaluation: Evaluation) -> None:
    for i, (wave, rate) in enumerate(generator.to_speech(captions)):
        tag = f"speech/{i}"
        if len(wave):
            sound = np.asarray(wave, np.float32)[None]
            evaluation.writer.add_audio(tag, sound, evaluation.step, sample_rate=rate)
        evaluation.writer.add_text(tag, captions[i], evaluation.step)
