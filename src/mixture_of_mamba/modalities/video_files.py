"""Video files: the one reader and the one writer, for training, prompts, generation and reports.

GIF, animated WebP and animated PNG by Pillow; MP4, WebM and their like by PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import needs
from ..files import replacing
from .image.files import IMAGE
from .input_checks import readable_file, reason
from .media import Limits, Media
from .video_formats import (
    PILLOW,
    WRITTEN,
    Clip,
    Frame,
    av_frames,
    check_limits,
    pillow_frames,
    write_av,
    write_pillow,
)

__all__ = ["VIDEO", "Clip", "even_places", "read_clip", "strip", "webp_bytes", "write_clip"]

#: Most frames a second of a clip whose frames last unequally long.
MOST_RATE = 60.0


def read_clip(path: str | Path, limits: Limits | None = None) -> Clip:
    """A video file as a Clip, without its sound; a file of one picture has one frame.

    Frames that last unequally long are repeated, so that each is shown as long as in the file;
    above MOST_RATE a second the nearest ones are taken. Upright as the file's rotation says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video, is empty, damaged, or above the limits.
    """
    path, limits = readable_file(path, "video"), limits or Limits()
    pillow = path.suffix.lower() in PILLOW
    with needs("reading videos", "train" if pillow else "video"):
        from PIL import Image  # noqa: F401

        if not pillow:
            import av  # noqa: F401
    try:
        return _even((pillow_frames if pillow else av_frames)(path, limits), limits)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise ValueError(f"video {path} cannot be read ({_reason(error)})") from error


def write_clip(path: str | Path, clip: Clip) -> None:
    """Write a clip; the suffix names the format: .webp and .png keep every pixel, .gif all colours
    of frames with up to 256, .mp4 (H.264) and .webm (VP9) look alike.

    Raises:
        ValueError: a suffix of no format, or a rate that the format does not have.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in PILLOW:
        with needs("writing videos", "train"), replacing(path) as part:
            write_pillow(part, clip, PILLOW[suffix])
    elif suffix in WRITTEN:
        with needs("writing videos", "video"), replacing(path) as part:
            write_av(part, clip, suffix)
    else:
        formats = ", ".join([*PILLOW, *WRITTEN])
        raise ValueError(f"--out {path} names no video format; end it in one of {formats}")


def webp_bytes(clip: Clip) -> bytes:
    """The clip as a lossless animated WebP file, which browsers show as a moving picture."""
    buffer = io.BytesIO()
    with needs("writing videos", "train"):
        write_pillow(buffer, clip, "WEBP")
    return buffer.getvalue()


def even_places(frames: int, count: int) -> np.ndarray:
    """(count,) the frames that are shown in the middle of `count` equal parts of so many frames."""
    return ((np.arange(count) + 0.5) * frames / count).astype(int)


def strip(clip: Clip) -> np.ndarray:
    """All frames side by side, (h, w, 3) uint8: what stands for a clip where nothing moves."""
    apart = np.pad(clip.frames, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(apart), axis=1)[:, :-1]


class _VideoMedia(Media):
    """Clips; animated pictures and video files."""

    name = "video"
    suffixes = (".gif", ".mp4", ".webm", ".mov", ".mkv", ".m4v", ".avi", ".apng", ".webp")

    def read(self, path: str | Path, limits: Limits | None = None) -> Clip:
        return read_clip(path, limits)

    def write(self, path: str | Path, item: Clip) -> None:
        write_clip(path, item)

    def check(self, item: Any, where: str) -> Clip:
        if not (isinstance(item, tuple) and len(item) == 2):
            raise ValueError(f"{where} is {type(item).__name__}; give (frames, frames a second)")
        frames, rate = np.asarray(item[0]), float(item[1])
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise ValueError(
                f"{where} is {frames.dtype} of shape {frames.shape}; give (frames, height, width, "
                "3) uint8, not empty"
            )
        if not 0 < rate < float("inf"):
            raise ValueError(f"{where} has {rate} frames a second; give a number above 0")
        return Clip(frames, rate)

    def differences(self, item: Clip, again: Clip) -> dict[str, float]:
        """Means of those of the frames. Of an item with more or fewer frames, those that
        `even_places` names; better give the item that the codec kept."""
        frames = item.frames[even_places(len(item.frames), len(again.frames))]
        found = [IMAGE.differences(*pair) for pair in zip(frames, again.frames, strict=True)]
        return {name: float(np.mean([d[name] for d in found])) for name in found[0]}

    def show(self, item: Clip) -> tuple[str, bytes]:
        return ".webp", webp_bytes(item)

    def keep(self, item: Clip) -> tuple[np.ndarray, dict[str, Any]]:
        return item.frames, {"rate": item.rate}

    def kept(self, array: np.ndarray, facts: dict[str, Any]) -> Clip:
        return Clip(array, facts["rate"])

    def seconds(self, item: Clip) -> float:
        return item.seconds


VIDEO: Media = _VideoMedia()


class _Frames:
    """Frames of one size in an array that grows where it is, so that all are held once."""

    def __init__(self) -> None:
        self.count = 0
        self._array = np.empty((0, 0, 0, 3), np.uint8)

    def append(self, frame: np.ndarray) -> None:
        if not self.count:
            self._array = np.empty((1, *frame.shape), np.uint8)
        if frame.shape != self._array.shape[1:]:
            raise ValueError(f"its frames change their size, from {_size(self._array[0])} pixels")
        if self.count == len(self._array):
            self._resize(self.count + 1 + self.count // 8)  # what is added is written, with zeros
        self._array[self.count] = frame
        self.count += 1

    def whole(self) -> np.ndarray:
        """(f, h, w, 3), all of them."""
        self._resize(self.count)
        return self._array

    def _resize(self, count: int) -> None:
        self._array.resize((count, *self._array.shape[1:]), refcheck=False)  # nobody else has it


def _even(shown: Iterator[Frame], limits: Limits) -> Clip:
    """Frames of equal duration."""
    kept = _Frames()
    starts: list[float] = []
    end = 0.0
    for frame, start, stop in shown:
        if starts and start <= starts[-1]:
            raise ValueError(f"its frame {len(starts)} begins before the one in front of it")
        kept.append(frame)
        starts.append(start)
        end = stop
        check_limits(limits, frame.shape[1], frame.shape[0], kept.count, end - starts[0])
    if not starts:
        raise ValueError("it has no frames")
    frames = kept.whole()
    begin, count = starts[0], len(frames)
    rate = count / (end - begin)
    off = np.abs((np.asarray(starts) - begin) * rate - np.arange(count))
    if off.max() < 0.25:  # of a frame: containers round to milliseconds, GIF to hundredths
        return Clip(frames, round(rate, 3))
    shortest = np.diff([*starts, end]).min()
    rate = min(1 / shortest, MOST_RATE)
    count = max(1, round((end - begin) * rate))
    check_limits(limits, frames.shape[2], frames.shape[1], count, end - begin)
    times = begin + (np.arange(count) + 0.5) / rate
    places = np.searchsorted(starts, times, side="right") - 1
    return Clip(frames[places], round(rate, 3))


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


def _reason(error: Exception) -> str:
    found = reason(error)
    if "Invalid argument" in found:  # of FFmpeg, with the path; what it says of other containers
        return (
            "it is no video, or damaged, or its container is not read: MP4, MOV, MKV, WebM and AVI "
            "are; convert it to MP4, such as by: ffmpeg -i FILE OUT.mp4"
        )
    return "it is no video, or damaged" if "Invalid data found" in found else found
