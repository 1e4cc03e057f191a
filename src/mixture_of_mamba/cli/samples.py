"""Decoded samples at evaluations: items of every modality for TensorBoard, with their captions."""

from __future__ import annotations

import io
import sys
import wave
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..training.loop import Evaluation
from .errors import one_line

__all__ = ["show_samples"]


def show_samples(count: int) -> Callable[[Evaluation], None]:
    """A callback for `train` that writes `count` generated samples of each modality.

    The captions are those of the first validation documents that have one. A sample that a
    half-trained model cannot finish is reported once and does not stop the training.
    """
    warned: set[str] = set()

    def callback(evaluation: Evaluation) -> None:
        if evaluation.writer is None or not evaluation.data.validation_examples:
            return
        from ..generation import Generator

        generator = Generator(evaluation.model, evaluation.data.tokenizers)
        examples = [e for e in evaluation.data.validation_examples if e.caption.strip()]
        for name in generator.tokenizers.non_text:
            captions = [e.caption for e in examples if e.is_about(name)]
            if why := generator.tokenizers.one_way.get(name):
                if name not in warned:
                    print(f"no {name} samples: {why}", file=sys.stderr)
                warned.add(name)
                continue
            try:
                _show(generator, name, captions[:count], evaluation)
            except (ValueError, RuntimeError) as error:
                if name not in warned:
                    print(f"no {name} samples yet: {one_line(error)}", file=sys.stderr)
                warned.add(name)

    return callback


def _show(generator: Any, name: str, captions: Sequence[str], evaluation: Evaluation) -> None:
    from ..generation.prompts import prompts_of
    from ..modalities.image.files import png_bytes
    from ..modalities.video_files import strip

    media = generator.tokenizers.codec(name).media
    for i, item in enumerate(generator.to(name, prompts_of({"text": captions}))):
        tag = f"{name}/{i}"
        suffix, content = media.show(item)
        if suffix == ".png":
            _add_image(evaluation.writer, tag, content, evaluation.step)
        elif suffix == ".webp":
            _add_image(evaluation.writer, tag, png_bytes(strip(item)), evaluation.step)
        elif suffix == ".wav":
            _add_sound(evaluation.writer, tag, content, evaluation.step)
        else:
            text = content.decode("utf-8", "replace")
            evaluation.writer.add_text(f"{tag}/item", text, evaluation.step)
        evaluation.writer.add_text(tag, captions[i], evaluation.step)


def _add_image(writer: Any, tag: str, content: bytes, step: int) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        writer.add_image(tag, np.asarray(image), step, dataformats="HWC")


def _add_sound(writer: Any, tag: str, content: bytes, step: int) -> None:
    with wave.open(io.BytesIO(content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        rate = file.getframerate()
    if len(samples):
        writer.add_audio(tag, samples.astype(np.float32)[None] / 32767, step, sample_rate=rate)
