"""Video files: the one reader and the one writer, for training, prompts, generation and reports.

GIF, animated WebP and animated PNG by Pillow; MP4, WebM and their like by PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..extras import needs
from ..files import replacing
from .image.pixel_formats import rgb
from .input_checks import readable_file, reason
from .media import Limits, Media

__all__ = ["VIDEO", "Clip", "read_clip", "strip", "webp_bytes", "write_clip"]

#: All frames of a clip together may have so many times the pixels that one image may have.
CLIP_IMAGES = 20
#: Most frames a second of a clip whose frames last unequally long.
MOST_RATE = 60.0
#: Seconds that a frame is shown whose file does not say.
UNSAID = 0.1

_PILLOW = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
_WRITTEN = {".mp4": ("libx264", {"crf": "12"}), ".webm": ("libvpx-vp9", {"crf": "12", "b": "0"})}
# Containers alone: playlists and lists of files would open what they name.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"


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


def read_clip(path: str | Path, limits: Limits | None = None) -> Clip:
    """A video file as a Clip, without its sound; a file of one picture has one frame.

    Frames that last unequally long are repeated, so that each is shown as long as in the file;
    above MOST_RATE a second the nearest ones are taken. Upright as the file's rotation says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no video, is empty, damaged, or above the limits.
    """
    path, limits = readable_file(path, "video"), limits or Limits()
    pillow = path.suffix.lower() in _PILLOW
    with needs("reading videos", "train" if pillow else "video"):
        from PIL import Image  # noqa: F401

        if not pillow:
            import av  # noqa: F401
    try:
        return _even((_pillow_frames if pillow else _av_frames)(path, limits), limits)
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
    if suffix in _PILLOW:
        with needs("writing videos", "train"), replacing(path) as part:
            _write_pillow(part, clip, _PILLOW[suffix])
    elif suffix in _WRITTEN:
        with needs("writing videos", "video"), replacing(path) as part:
            _write_av(part, clip, suffix)
    else:
        formats = ", ".join([*_PILLOW, *_WRITTEN])
        raise ValueError(f"--out {path} names no video format; end it in one of {formats}")


def webp_bytes(clip: Clip) -> bytes:
    """The clip as a lossless animated WebP file, which browsers show as a moving picture."""
    buffer = io.BytesIO()
    with needs("writing videos", "train"):
        _write_pillow(buffer, clip, "WEBP")
    return buffer.getvalue()


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

    def show(self, item: Clip) -> tuple[str, bytes]:
        return ".webp", webp_bytes(item)

    def keep(self, item: Clip) -> tuple[np.ndarray, dict[str, Any]]:
        return item.frames, {"rate": item.rate}

    def kept(self, array: np.ndarray, facts: dict[str, Any]) -> Clip:
        return Clip(array, facts["rate"])

    def seconds(self, item: Clip) -> float:
        return item.seconds


VIDEO: Media = _VideoMedia()

#: A frame, (h, w, 3) uint8, and the seconds at which it begins and ends.
_Frame = tuple[np.ndarray, float, float]


def _even(shown: Iterator[_Frame], limits: Limits) -> Clip:
    """Frames of equal duration."""
    frames: list[np.ndarray] = []
    starts: list[float] = []
    end = 0.0
    for frame, start, stop in shown:
        if frames and frame.shape != frames[0].shape:
            raise ValueError(f"its frames change their size, from {_size(frames[0])} pixels")
        if starts and start <= starts[-1]:
            raise ValueError(f"its frame {len(starts)} begins before the one in front of it")
        frames.append(frame)
        starts.append(start)
        end = stop
        _check(limits, frame.shape[1], frame.shape[0], len(frames), end - starts[0])
    if not frames:
        raise ValueError("it has no frames")
    begin, count = starts[0], len(frames)
    rate = count / (end - begin)
    off = np.abs((np.asarray(starts) - begin) * rate - np.arange(count))
    if off.max() < 0.25:  # of a frame: containers round to milliseconds, GIF to hundredths
        return Clip(np.stack(frames), round(rate, 3))
    shortest = np.diff([*starts, end]).min()
    rate = min(1 / shortest, MOST_RATE)
    count = max(1, round((end - begin) * rate))
    _check(limits, frames[0].shape[1], frames[0].shape[0], count, end - begin)
    times = begin + (np.arange(count) + 0.5) / rate
    places = np.searchsorted(starts, times, side="right") - 1
    return Clip(np.stack([frames[i] for i in places]), round(rate, 3))


def _check(limits: Limits, width: int, height: int, frames: int, seconds: float) -> None:
    if width * height > limits.max_pixels:
        raise ValueError(
            f"its frames have {width} x {height} pixels, but at most {limits.max_pixels:,} are "
            "read (data.max_pixels); make it smaller"
        )
    if frames * width * height > CLIP_IMAGES * limits.max_pixels:
        raise ValueError(
            f"it has {frames} frames of {width} x {height} pixels or more, but at most "
            f"{CLIP_IMAGES * limits.max_pixels:,} pixels are read of all frames together "
            f"({CLIP_IMAGES} times data.max_pixels); make it smaller or shorter"
        )
    if seconds > limits.max_seconds:
        raise ValueError(
            f"it lasts {seconds:,.1f} s, but at most {limits.max_seconds:,.1f} s are read "
            "(data.max_seconds); divide it"
        )


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


def _reason(error: Exception) -> str:
    found = reason(error)
    if "Invalid data found" in found or "Invalid argument" in found:  # of FFmpeg, with the path
        return "it is no video, or damaged"
    return found


def _pillow_frames(path: Path, limits: Limits) -> Iterator[_Frame]:
    from PIL import Image

    with Image.open(path, formats=[_PILLOW[path.suffix.lower()]]) as opened:
        count = getattr(opened, "n_frames", 1)
        _check(limits, *opened.size, count, 0.0)
        start = 0.0
        for number in range(count):
            opened.seek(number)
            opened.load()
            stop = start + (opened.info.get("duration") or 1000 * UNSAID) / 1000
            yield rgb(opened.copy()), start, stop
            start = stop


def _av_frames(path: Path, limits: Limits) -> Iterator[_Frame]:
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
        _check(limits, stream.width, stream.height, stream.frames, lasts or 0.0)
        first = stop = None
        usual = 1 / float(stream.guessed_rate or 1 / UNSAID)
        for frame in container.decode(stream):
            if frame.is_corrupt or frame.time is None:
                raise ValueError("one of its frames is damaged")
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            first = frame.time if first is None else first
            stop = frame.time + (float(frame.duration * frame.time_base) or usual)
            yield np.ascontiguousarray(pixels), frame.time, stop
        if lasts and first is not None and stop is not None and stop - first < lasts - 2 * usual:
            raise ValueError(
                f"it breaks off after {stop - first:.2f} s of the {lasts:.2f} s that its header "
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


def _write_pillow(file: Any, clip: Clip, format: str) -> None:
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


def _write_av(path: Path, clip: Clip, suffix: str) -> None:
    import av

    codec, options = _WRITTEN[suffix]
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
