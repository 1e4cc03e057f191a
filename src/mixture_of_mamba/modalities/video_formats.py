"""Frames of video files, format by format: Pillow's animated pictures, and PyAV's containers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .image.pixel_formats import rgb
from .media import Limits

__all__ = [
    "PILLOW",
    "WRITTEN",
    "Clip",
    "Frame",
    "av_frames",
    "check_limits",
    "pillow_frames",
    "write_av",
    "write_pillow",
]

#: All frames of a clip together may have so many times the pixels that one image may have.
CLIP_IMAGES = 20
#: Seconds that a frame is shown whose file does not say.
UNSAID = 0.1

#: Suffix -> what Pillow calls the format.
PILLOW = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
#: Suffix -> encoder of PyAV and its options.
WRITTEN = {".mp4": ("libx264", {"crf": "12"}), ".webm": ("libvpx-vp9", {"crf": "12", "b": "0"})}
# Containers alone: playlists and lists of files would open what they name.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
# Their frames come in another order than their packets, whose times are all that AVI has.
_REORDERED = ("h264", "hevc")

#: A frame, (h, w, 3) uint8, and the seconds at which it begins and ends.
Frame = tuple[np.ndarray, float, float]


class Clip(NamedTuple):
    """A silent video.

    Attributes:
        frames: (f, h, w, 3) uint8, at least one.
        rate: frames a second, > 0.
    """

    frames: np.ndarray
    rate: float

    @property
    def seconds(self) -> float:
        return float(len(self.frames) / self.rate)


def check_limits(limits: Limits, width: int, height: int, frames: int, seconds: float) -> None:
    if width * height > limits.max_pixels:
        raise ValueError(
            f"its frames have {width} x {height} pixels, but at most {limits.max_pixels:,} are "
            "read (data.max_pixels); make it smaller"
        )
    if frames * width * height > CLIP_IMAGES * limits.max_pixels:
        raise ValueError(
            f"it has {frames} frames of {width} x {height} pixels or more, but at most "
            f"{CLIP_IMAGES * limits.max_pixels:,} pixels are read of all frames together "
            f"({CLIP_IMAGES} times data.max_pixels), before any are left out; make it smaller or "
            "shorter, or give it fewer frames a second, such as by: "
            "ffmpeg -i FILE -vf fps=4,scale=-2:256 OUT.mp4"
        )
    if seconds > limits.max_seconds:
        raise ValueError(
            f"it lasts {seconds:,.1f} s, but at most {limits.max_seconds:,.1f} s are read "
            "(data.max_seconds); divide it"
        )


def pillow_frames(path: Path, limits: Limits) -> Iterator[Frame]:
    from PIL import Image

    with Image.open(path, formats=[PILLOW[path.suffix.lower()]]) as opened:
        count = getattr(opened, "n_frames", 1)
        check_limits(limits, *opened.size, count, 0.0)
        start = 0.0
        for number in range(count):
            opened.seek(number)
            opened.load()
            stop = start + (opened.info.get("duration") or 1000 * UNSAID) / 1000
            yield rgb(opened.copy()), start, stop
            start = stop


def av_frames(path: Path, limits: Limits) -> Iterator[Frame]:
    import av

    strict = {"err_detect": "explode"}  # else damaged pictures are filled up with grey
    allowed = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    with av.open(str(path), options={**strict, **allowed}) as container:
        if not container.streams.video:
            kinds = {stream.type for stream in container.streams}
            raise ValueError(f"it has no picture, only {' and '.join(sorted(kinds)) or 'a header'}")
        stream: Any = container.streams.video[0]
        stream.codec_context.options = strict
        lasts = _seconds(container, stream)
        check_limits(limits, stream.width, stream.height, stream.frames, lasts or 0.0)
        first = last = None
        usual = 1 / float(stream.guessed_rate or 1 / UNSAID)
        coder = stream.codec_context
        counted = container.format.name == "avi" and coder.name in _REORDERED
        counted = counted and coder.has_b_frames
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt or frame.time is None:
                raise ValueError("one of its frames is damaged")
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            lasting = float(frame.duration * frame.time_base) or usual
            first = frame.time if first is None else min(first, frame.time)
            last = frame.time + lasting if last is None else max(last, frame.time + lasting)
            start = number * usual if counted else frame.time
            yield np.ascontiguousarray(pixels), start, start + lasting
        if lasts and first is not None and last is not None and last - first < lasts - 2 * usual:
            raise ValueError(
                f"it breaks off after {last - first:.2f} s of the {lasts:.2f} s that its header "
                "names"
            )


def _seconds(container: Any, stream: Any) -> float | None:
    """How long the pictures last, as the header says; None where it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if said := stream.metadata.get("DURATION"):  # of Matroska: hours:minutes:seconds
        hours, minutes, seconds = said.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / 1_000_000)
    return None


def write_pillow(file: Any, clip: Clip, format: str) -> None:
    from PIL import Image

    tick = 10 if format == "GIF" else 1  # milliseconds
    most = 1000 / (2 * tick)
    if clip.rate > most:
        raise ValueError(f"{format} has at most {most:g} frames a second, not {clip.rate:g}")
    ends = np.round(np.arange(len(clip.frames) + 1) * 1000 / clip.rate / tick) * tick
    images = [Image.fromarray(np.ascontiguousarray(frame)) for frame in clip.frames]
    options: dict[str, Any] = {"lossless": True, "exact": True} if format == "WEBP" else {}
    if format == "GIF":
        images = [_indexed(image) for image in images]
        options = {"optimize": False}
    durations = [int(d) for d in np.diff(ends)]
    images[0].save(
        file, format, save_all=True, append_images=images[1:], duration=durations, loop=0, **options
    )


def _indexed(image: Any) -> Any:
    """A frame with a palette: of its own colours where it has at most 256."""
    from PIL import Image

    pixels = np.asarray(image)
    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        return image.quantize(256)
    indexed = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    indexed.putpalette(colours.tobytes())
    return indexed


def write_av(path: Path, clip: Clip, suffix: str) -> None:
    import av

    codec, options = WRITTEN[suffix]
    odd = [(0, 0), *((0, side % 2) for side in clip.frames.shape[1:3]), (0, 0)]
    frames = np.pad(clip.frames, odd, mode="edge")  # both formats ask for even sides
    rate = Fraction(clip.rate).limit_denominator(1001)
    with av.open(str(path), "w", format=suffix[1:]) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
