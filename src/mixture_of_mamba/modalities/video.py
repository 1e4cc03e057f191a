"""Video as frames: the codes of a discrete image codec, with a marker in front of every frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..structure import structure
from .codec import Codec
from .image.files import IMAGE
from .options import CodecOptions
from .registry import codec_class, name_of, options_of
from .video_files import VIDEO, Clip, even_places

__all__ = ["FrameCodec", "FrameOptions"]

#: What becomes of clips with more frames than `frames`.
LONGER = ("spread", "cut", "refuse")

_META, _IMAGE = "frames.json", "image"
_DEFAULT_IMAGE = {"codec": "vq", "size": 16}


@dataclass(frozen=True, kw_only=True)
class FrameOptions(CodecOptions):
    """Of `frames`, codes of a discrete image codec, frame by frame."""

    image: Mapping[str, Any] = field(default_factory=_DEFAULT_IMAGE.copy)
    """Codec and options of the frames: any discrete image codec, such as {codec: vq, size: 16,
    codes: 256}; one of them alone as --modalities.NAME.image.codes 256."""

    frames: int = 8
    """Most frames of a clip."""

    fps: float = 4.0
    """Frames a second that clips are resampled to, the nearest ones."""

    longer: str = "spread"
    """What becomes of a clip of more than `frames` frames: "spread" takes as many, evenly from all
    of it, so that it is shown faster; "cut" takes the first ones; "refuse" makes it a bad
    document."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; it must be at least 1")
        if not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps}; give frames a second, above 0")
        if self.longer not in LONGER:
            raise ValueError(f"longer is {self.longer!r}; choose from {', '.join(LONGER)}")
        given = dict(self.image)
        codec = given.pop("codec", _DEFAULT_IMAGE["codec"])
        if codec == _DEFAULT_IMAGE["codec"]:
            given = {**_DEFAULT_IMAGE, **given}
            del given["codec"]
        try:
            options = structure(options_of(codec), given, "image")
        except ValueError as error:
            prefix = "" if str(error).startswith("image") else "image."
            raise ValueError(f"{prefix}{error}") from error
        if options.kind != "discrete":
            raise ValueError(
                f"image.codec is {codec!r}, which is {options.kind}; frames are made of ids, so "
                "give a discrete image codec, such as vq"
            )
        object.__setattr__(self, "image", {"codec": codec, **asdict(options)})

    @cached_property
    def nested(self) -> Mapping[str, tuple[str, CodecOptions]]:
        options = {option: value for option, value in self.image.items() if option != "codec"}
        codec = self.image["codec"]
        return {"image": (codec, options_of(codec)(**options))}

    @property
    def max_length(self) -> int | None:
        codes = self.nested["image"][1].fixed_length
        return None if codes is None else self.frames * (1 + codes)

    def completed(self) -> FrameOptions:
        codec, options = self.nested["image"]
        return replace(self, image={"codec": codec, **asdict(options.completed())})

    def check_files(self) -> None:
        codec, options = self.nested["image"]
        if codec_class(codec).media is not IMAGE:
            raise ValueError(
                f"image.codec is {codec!r}, which is for {codec_class(codec).media.name}; give a "
                "discrete image codec, such as vq"
            )
        try:
            options.check_files()
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"image.{error}") from error


class FrameCodec(Codec):
    """Clips <-> for each frame a marker and its codes.

    Of n codes the ids are the image codec's 0..n-1, the marker n, and the end token n+1.
    """

    codec = "frames"
    media = VIDEO
    Options = FrameOptions
    kind = "discrete"
    version = 1

    def __init__(self, options: FrameOptions, image: Codec) -> None:
        """
        Args:
            image: the fitted codec of the frames; what it is stands in `options` afterwards.
        """
        codes = image.fixed_length
        if codes is None:
            raise ValueError(
                f"image codec {image.codec!r} has no fixed number of codes; frames need one"
            )
        self.image = image
        recorded = {"codec": name_of(type(image)), **asdict(image.options)}
        self.options = replace(options, image=recorded)
        self.marker = image.size - 1  # in place of the image codec's end token
        self.size = self.marker + 2
        whole = image.cycle or ((0, self.marker),)
        self.cycle = ((self.marker, self.marker + 1), *(whole * (codes // len(whole))))
        self.max_length = options.frames * len(self.cycle)
        if image.cannot_decode:
            self.cannot_decode = f"its frames are of {image.codec}: {image.cannot_decode}"

    @classmethod
    def prepare(cls, item: Clip, options: FrameOptions) -> np.ndarray:
        """(f, ...): its frames at `fps`, at most `frames`, each as the image codec keeps it.

        Raises:
            ValueError: a longer clip, where `longer` is "refuse".
        """
        frames, rate = item
        wanted = max(1, round(len(frames) / rate * options.fps))
        if wanted > options.frames and options.longer == "refuse":
            raise ValueError(
                f"a clip lasts {item.seconds:.1f} s, but it may have {_most(options)}; cut it, "
                "raise frames, or lower fps"
            )
        if wanted > options.frames and options.longer == "spread":
            places = even_places(len(frames), options.frames)
        else:  # the frame that is shown in the middle of each interval
            times = (np.arange(min(wanted, options.frames)) + 0.5) / options.fps
            places = np.minimum((times * rate).astype(int), len(frames) - 1)
        codec, inner = options.nested["image"]
        keep = codec_class(codec).prepare
        return np.stack([keep(frames[place], inner) for place in places])

    @classmethod
    def example(cls, item: Clip, prepared: np.ndarray, options: FrameOptions) -> Any:
        """The clip as it is trained on; a whole one may be large."""
        pixels = prepared.ndim == 4 and prepared.shape[-1] == 3 and prepared.dtype == np.uint8
        return Clip(prepared, options.fps) if pixels else None

    @classmethod
    def remark(cls, item: Clip, options: FrameOptions) -> str | None:
        if round(len(item.frames) / item.rate * options.fps) <= options.frames:
            return None
        what = {
            "spread": "frames are taken evenly from all of it (longer: spread)",
            "cut": "the rest is left out (longer: cut)",
        }
        return f"longer than {_most(options)}: {what.get(options.longer, 'refused')}"

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray],
        options: FrameOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> FrameCodec:
        """Fits the image codec to all frames."""
        codec, inner = options.nested["image"]
        frames = [frame for clip in prepared for frame in clip]
        return cls(options, codec_class(codec).fit(frames, inner, seed=seed, report=report))

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        frames = [frame for clip in prepared for frame in clip]
        codes = self.image.encode(frames)
        marked = [np.concatenate([[self.marker], ids]).astype(np.int64) for ids in codes]
        ends = np.cumsum([len(clip) for clip in prepared])
        return [
            np.concatenate(marked[end - len(clip) : end])
            for clip, end in zip(prepared, ends, strict=True)
        ]

    def decode(self, tokens: Sequence[np.ndarray]) -> list[Clip]:
        """Clips of `fps` frames a second.

        Raises:
            ValueError: no whole frames, a marker in a wrong place, an id that is no code, or an
                image codec that cannot decode.
        """
        if self.cannot_decode:
            raise ValueError(f"no video can be made of ids: {self.cannot_decode}")
        clips = [self._codes(np.asarray(ids)) for ids in tokens]
        images = self.image.decode([codes for clip in clips for codes in clip])
        ends = np.cumsum([len(clip) for clip in clips])
        return [
            Clip(np.stack(images[end - len(clip) : end]), float(self.options.fps))
            for clip, end in zip(clips, ends, strict=True)
        ]

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        """(f, codes) of one clip's ids."""
        length = len(self.cycle)
        if ids.ndim != 1 or not len(ids) or len(ids) % length:
            raise ValueError(
                f"a frame has {length} ids, its marker among them, but {ids.shape} were given; "
                "leave out begin and end tokens"
            )
        frames = ids.reshape(-1, length)
        if (frames[:, 0] != self.marker).any() or (frames[:, 1:] == self.marker).any():
            raise ValueError(
                f"id {self.marker} marks the begin of a frame, every {length} ids, and stands "
                "nowhere else; these ids have it elsewhere"
            )
        return frames[:, 1:]

    def save(self, folder: Path) -> None:
        """Writes `frames.json` and the image codec's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _META).write_text(json.dumps(asdict(self.options)))
        self.image.save(folder / _IMAGE)

    @classmethod
    def load(cls, folder: Path) -> FrameCodec:
        options = json.loads((folder / _META).read_text())
        image = codec_class(options["image"]["codec"]).load(folder / _IMAGE)
        return cls(FrameOptions(**options), image)


def _most(options: FrameOptions) -> str:
    return f"{options.frames} frames at {options.fps:g} a second"
