"""Clips as files: what is written comes back, and what cannot be read is said."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mixture_of_mamba.modalities import Limits, video_files
from mixture_of_mamba.modalities.video_files import VIDEO, Clip, read_clip, strip
from tests.factories.clips import moving_square


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
@pytest.mark.parametrize("rate", [4.0, 12.5])
def test_pixels_come_back_exactly(tmp_path: Path, suffix: str, rate: float) -> None:
    clip = moving_square(6, rate=rate)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    clip.frames[2] = noise  # 256 colours in one frame
    clip.frames[4] = clip.frames[3]  # formats store one frame, twice as long
    VIDEO.write(tmp_path / f"a{suffix}", clip)
    again = VIDEO.read(tmp_path / f"a{suffix}")
    assert again.rate == rate
    np.testing.assert_array_equal(again.frames, clip.frames)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_video_formats_look_alike(tmp_path: Path, suffix: str) -> None:
    clip = moving_square(6, size=(48, 32))
    VIDEO.write(tmp_path / f"a{suffix}", clip)
    again = VIDEO.read(tmp_path / f"a{suffix}")
    assert again.rate == 4.0 and again.frames.shape == clip.frames.shape
    assert np.abs(again.frames.astype(int) - clip.frames).mean() < 6
    # each frame is nearest to its own
    away = np.abs(again.frames[:, None].astype(int) - clip.frames[None]).mean((2, 3, 4))
    assert (away.argmin(1) == np.arange(6)).all()


def test_sides_of_mp4_become_even(tmp_path: Path) -> None:
    VIDEO.write(tmp_path / "a.mp4", Clip(moving_square(3).frames[:, :15, :13], 4.0))
    assert VIDEO.read(tmp_path / "a.mp4").frames.shape == (3, 16, 14, 3)


def test_frames_of_unequal_duration_are_repeated(tmp_path: Path) -> None:
    frames = moving_square(3).frames
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[100, 300, 100]
    )
    clip = read_clip(tmp_path / "a.gif")
    assert clip.rate == 10.0 and len(clip.frames) == 5
    for i, frame in enumerate([0, 1, 1, 1, 2]):
        assert np.abs(clip.frames[i].astype(int) - frames[frame]).mean() < 3  # Pillow's palette


def _write(path: Path, frames: np.ndarray, milliseconds: list[int], codec: str = "libx264") -> None:
    options = {"crf": "10"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(10), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, at in zip(frames, milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def test_b_frames_of_avi_are_in_order(tmp_path: Path) -> None:
    """AVI has times of packets alone, which stand in another order."""
    frames = moving_square(12, size=(48, 32)).frames
    _write(tmp_path / "a.avi", frames, list(range(0, 1200, 100)))
    with av.open(str(tmp_path / "a.avi")) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert times != sorted(times)
    clip = read_clip(tmp_path / "a.avi")
    assert clip.rate == 10.0
    away = np.abs(clip.frames[:, None].astype(int) - frames[None]).mean((2, 3, 4))
    assert away.argmin(1).tolist() == list(range(12))


@pytest.mark.parametrize(("suffix", "codec"), [(".mpg", "libx264"), (".ts", "libx264"),
                                               (".flv", "flv1"), (".wmv", "wmv2")])  # fmt: skip
def test_containers_that_are_not_read_are_told_from_damage(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    _write(tmp_path / f"a{suffix}", moving_square(3, size=(48, 32)).frames, [0, 100, 200], codec)
    with pytest.raises(ValueError, match=r"MP4, MOV, MKV, WebM and AVI are; convert it to MP4"):
        read_clip(tmp_path / f"a{suffix}")


def test_variable_frame_rates(tmp_path: Path) -> None:
    frames = moving_square(4, size=(48, 32)).frames
    _write(tmp_path / "a.mp4", frames, [0, 100, 500, 600])
    clip = read_clip(tmp_path / "a.mp4")
    assert clip.rate == 10.0
    away = np.abs(clip.frames[:, None].astype(int) - frames[None]).mean((2, 3, 4))
    assert away.argmin(1).tolist() == [0, 1, 1, 1, 1, 2, 3]


def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (10, 20, 30)).save(tmp_path / "a.png")
    assert read_clip(tmp_path / "a.png").frames.shape == (1, 7, 9, 3)


def _damaged(folder: Path) -> dict[str, bytes]:
    clip = moving_square(12, size=(48, 32))
    files = {}
    for suffix in (".mp4", ".webm", ".gif"):
        VIDEO.write(folder / f"whole{suffix}", clip)
        files[suffix] = (folder / f"whole{suffix}").read_bytes()
    return files


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = _damaged(tmp_path)
    cases = {
        "cut.mp4": (whole[".mp4"][: len(whole[".mp4"]) // 2], "it is no video, or damaged"),
        "cut.webm": (whole[".webm"][: len(whole[".webm"]) * 2 // 3], "it breaks off after"),
        "cut.gif": (whole[".gif"][: len(whole[".gif"]) // 2], "cannot be read"),
        "words.mp4": (b"these are words " * 40, "it is no video, or damaged"),
        "words.gif": (b"these are words " * 40, "cannot identify"),
        "none.webm": (b"", "it is no video, or damaged"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "it is no video, or damaged"),
    }
    for name, (content, what) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=what) as error:
            read_clip(tmp_path / name)
        assert f"video {tmp_path / name} cannot be read" in str(error.value)
    with pytest.raises(
        FileNotFoundError, match=r"gone\.mp4 cannot be read \(there is no such file"
    ):
        read_clip(tmp_path / "gone.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="it has no picture, only audio"):
        read_clip(tmp_path / "a.mp4")
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 10, "NONE", ""))
        file.writeframes(bytes(20))
    (tmp_path / "b.mp4").write_bytes(made.getvalue())  # of a container that is not read
    with pytest.raises(ValueError, match="no video"):
        read_clip(tmp_path / "b.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp"])
def test_limits(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    VIDEO.write(path, moving_square(12, size=(48, 32)))
    read_clip(path, Limits(max_pixels=48 * 32, max_seconds=3.0))
    with pytest.raises(ValueError, match=r"48 x 32 pixels.*data\.max_pixels"):
        read_clip(path, Limits(max_pixels=1000))
    with pytest.raises(ValueError, match=r"it lasts [23]\.\d s, but at most 2\.4 s"):
        read_clip(path, Limits(max_seconds=2.4))


def test_all_frames_together_have_a_limit(tmp_path: Path) -> None:
    VIDEO.write(tmp_path / "a.webm", moving_square(24))
    with pytest.raises(ValueError, match=r"2[14] frames of 16 x 16 pixels or more.*fps=4"):
        read_clip(tmp_path / "a.webm", Limits(max_pixels=256))


def test_frames_are_held_once_while_they_are_read(tmp_path: Path) -> None:
    clip = moving_square(40, size=(200, 200))
    VIDEO.write(tmp_path / "a.webp", clip)
    tracemalloc.start()
    try:
        again = VIDEO.read(tmp_path / "a.webp")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(again.frames, clip.frames)
    assert clip.frames.nbytes < most < 1.3 * clip.frames.nbytes


def test_frames_of_another_size_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (np.zeros((side, 4, 3), np.uint8) for side in (4, 5))
    shown = iter([(small, 0.0, 1.0), (large, 1.0, 2.0)])
    monkeypatch.setattr(video_files, "pillow_frames", lambda path, limits: shown)
    (tmp_path / "a.gif").touch()
    with pytest.raises(ValueError, match="its frames change their size, from 4 x 4 pixels"):
        read_clip(tmp_path / "a.gif")


def test_what_is_written(tmp_path: Path) -> None:
    clip = moving_square(2)
    with pytest.raises(ValueError, match=r"names no video format; end it in one of \.gif"):
        VIDEO.write(tmp_path / "a.txt", clip)
    with pytest.raises(ValueError, match="GIF has at most 50 frames a second, not 120"):
        VIDEO.write(tmp_path / "a.gif", clip._replace(rate=120.0))
    assert not list(tmp_path.iterdir())
    for wrong in (clip.frames, (clip.frames[0], 4.0), (clip.frames.astype(float), 4.0)):
        with pytest.raises(ValueError, match="this clip"):
            VIDEO.check(wrong, "this clip")
    with pytest.raises(ValueError, match=r"has 0\.0 frames a second"):
        VIDEO.check((clip.frames, 0), "this clip")


def test_what_reports_show(tmp_path: Path) -> None:
    clip = moving_square(5)
    suffix, content = VIDEO.show(clip)
    assert suffix == ".webp"
    (tmp_path / "a.webp").write_bytes(content)
    np.testing.assert_array_equal(read_clip(tmp_path / "a.webp").frames, clip.frames)
    assert strip(clip).shape == (16, 5 * 17 - 1, 3)
    array, facts = VIDEO.keep(clip)
    kept = VIDEO.kept(array, facts)
    assert kept.rate == clip.rate and kept.frames is clip.frames


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIF needs no PyAV."""
    for suffix in (".mp4", ".gif"):
        VIDEO.write(tmp_path / f"a{suffix}", moving_square(2))
    monkeypatch.setitem(sys.modules, "av", None)
    for work in (VIDEO.read, lambda path: VIDEO.write(path, moving_square(2))):
        with pytest.raises(ImportError, match=r"pip install 'mixture-of-mamba\[video\]'"):
            work(tmp_path / "a.mp4")
    assert len(VIDEO.read(tmp_path / "a.gif").frames) == 2


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    """A phone that is held upright stores pictures that lie, and says so in the track's matrix."""
    frames = np.full((3, 32, 48, 3), 20, np.uint8)
    frames[:, :16, :16] = 220  # top left
    VIDEO.write(tmp_path / "a.mp4", Clip(frames, 4.0))
    content = (tmp_path / "a.mp4").read_bytes()
    one, zero, end = 0x10000, 0, 0x40000000
    upright, turned = (
        struct.pack(">9i", *matrix)
        for matrix in (
            (one, zero, zero, zero, one, zero, zero, zero, end),
            (zero, one, zero, -one, zero, zero, zero, zero, end),  # a quarter clockwise
        )
    )
    track = content.index(upright, content.index(b"tkhd"))
    (tmp_path / "a.mp4").write_bytes(content[:track] + turned + content[track + len(turned) :])
    clip = read_clip(tmp_path / "a.mp4")
    assert clip.frames.shape == (3, 48, 32, 3)
    assert (clip.frames[:, :14, 18:] > 180).all() and (clip.frames[:, 20:] < 60).all()


def test_damage_inside_is_no_picture(tmp_path: Path) -> None:
    """Decoders hide it: they fill up what they cannot read."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (6, 64, 64, 3), np.uint8)
    VIDEO.write(tmp_path / "a.mp4", Clip(noise, 4.0))
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    for at in range(len(content) // 4, len(content) // 4 * 3, 50):
        content[at] ^= 0x5A
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_clip(tmp_path / "a.mp4")
