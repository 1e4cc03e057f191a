"""Fixtures of the data room: the tiny bundles, and a user's documents with real files."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.data.listing import Listing, list_documents
from mixture_of_mamba.modalities.image.files import IMAGE
from mixture_of_mamba.modalities.media import TEXT
from mixture_of_mamba.modalities.speech.files import SOUND
from tests.factories.data import bundle, spoken

__all__ = [
    "bundle",
    "documents",
    "listed",
    "media",
    "spoken",
    "write_jsonl",
    "write_png",
    "write_wav",
]


#: The media of text, images and speech.
MEDIA = {"text": TEXT, "image": IMAGE, "speech": SOUND}


def listed(source: Path) -> Listing:
    """The documents of a source of text, images and speech."""
    return list_documents(source, MEDIA)


def write_png(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> Path:
    """A picture with a gradient and a bright square."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 200, width)[None]
    top, left = rng.integers(0, 20, 2)
    pixels[top : top + 15, left : left + 15] = rng.integers(100, 255, 3)
    Image.fromarray(pixels).save(path)
    return path


def write_wav(path: Path, seed: int, rate: int = 16_000, seconds: float = 1.2) -> Path:
    """A gliding tone with noise, 16-bit stereo."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(rate * seconds)) / rate
    tone = np.sin(2 * np.pi * (200 + 100 * seed + 150 * t) * t) + 0.05 * rng.standard_normal(len(t))
    samples = (np.stack([tone, tone], 1) * 12_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten PNG and WAV files and no documents."""
    folder = tmp_path_factory.mktemp("media")
    for i in range(10):
        write_png(folder / f"picture{i}.png", i)
        write_wav(folder / f"sound{i}.wav", i)
    return folder


def documents(folder: Path) -> list[list[dict[str, str]]]:
    """Ten interleaved documents, one of text alone and one without text; absolute paths."""
    rows: list[list[dict[str, str]]] = []
    for i in range(10):
        image = {"image": str(folder / f"picture{i}.png")}
        audio = {"audio": str(folder / f"sound{i}.wav")}
        rows.append([{"text": f"picture number {i} and how it sounds"}, image, audio])
    rows[3] = [{"text": "words alone, with an ümlaut and 漢字"}]
    rows[4] = [rows[4][2], rows[4][1]]
    return rows


def write_jsonl(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    """One document a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
