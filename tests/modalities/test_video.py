"""Video as frames: markers and codes, clips of other lengths, options of the codec inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.generation.grammar import Cursor, Grammar
from mixture_of_mamba.modalities.config import ModalityConfig, merged, modalities_from, resolved
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.modalities.video import FrameCodec, FrameOptions
from mixture_of_mamba.modalities.video_files import Clip
from tests.factories.clips import moving_square
from tests.helpers.toy_codecs import ToyCodec, toy_tokenizers

IMAGE = {"codec": "vq", "size": 8, "codes": 16, "steps": 3}
OPTIONS = FrameOptions(image=IMAGE, frames=5)


def _silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    clips = [FrameCodec.prepare(moving_square(2 + i % 4, seed=i), OPTIONS) for i in range(8)]
    return FrameCodec.fit(clips, OPTIONS, seed=0, report=_silent)


def _prepared(*frames: int) -> list[np.ndarray]:
    return [FrameCodec.prepare(moving_square(n, seed=n), OPTIONS) for n in frames]


def test_ids_are_a_marker_and_the_image_s_codes(codec: FrameCodec) -> None:
    assert (codec.marker, codec.size, codec.fixed_length, codec.max_length) == (16, 18, None, 25)
    assert codec.cycle == ((16, 17), *[(0, 16)] * 4)
    for ids, clip in zip(codec.encode(_prepared(5, 2)), _prepared(5, 2), strict=True):
        frames = ids.reshape(len(clip), 5)
        assert ids.dtype == np.int64 and (frames[:, 0] == 16).all()
        np.testing.assert_array_equal(frames[:, 1:], codec.image.encode(clip))


def test_clips_together_are_clips_alone(codec: FrameCodec) -> None:
    clips = _prepared(3, 1, 5)
    together = codec.encode(clips)
    for clip, ids in zip(clips, together, strict=True):
        np.testing.assert_array_equal(codec.encode([clip])[0], ids)
    for made, ids in zip(codec.decode(together), together, strict=True):
        (alone,) = codec.decode([ids])
        np.testing.assert_array_equal(made.frames, alone.frames)
        assert made.rate == 4.0 and made.frames.shape == (len(ids) // 5, 8, 8, 3)
    assert codec.encode([]) == [] and codec.decode([]) == []


def test_a_saved_codec_gives_the_same(codec: FrameCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "video")
    again = FrameCodec.load(tmp_path / "video")
    assert again.options == codec.options and again.cycle == codec.cycle
    (clip,) = _prepared(4)
    np.testing.assert_array_equal(again.encode([clip])[0], codec.encode([clip])[0])


def test_ids_that_are_no_clip(codec: FrameCodec) -> None:
    (ids,) = codec.encode(_prepared(2))
    for wrong in (ids[:0], ids[:7], ids[:, None]):
        with pytest.raises(ValueError, match="a frame has 5 ids, its marker among them"):
            codec.decode([wrong])
    with pytest.raises(ValueError, match="id 16 marks the begin of a frame"):
        codec.decode([np.roll(ids, 1)])
    with pytest.raises(ValueError, match=r"image codes lie in 0\.\.15"):
        codec.decode([np.where(np.arange(10) == 3, 17, ids)])


@pytest.mark.parametrize(("rate", "wanted"), [(4.0, [0, 1, 2, 3, 4]), (8.0, [1, 3, 5, 7, 9])])
def test_frames_are_resampled_to_fps(rate: float, wanted: list[int]) -> None:
    frames = np.zeros((int(rate / 4 * 5), 8, 8, 3), np.uint8) + np.arange(10)[:, None, None, None][
        : int(rate / 4 * 5)
    ].astype(np.uint8)
    prepared = FrameCodec.prepare(Clip(frames, rate), OPTIONS)
    assert prepared[:, 0, 0, 0].tolist() == wanted
    slow = FrameCodec.prepare(Clip(frames[:2], 2.0), OPTIONS)
    assert slow[:, 0, 0, 0].tolist() == [0, 0, 1, 1]


def test_longer_clips() -> None:
    frames = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 8, 8, 3))
    clip = Clip(frames, 4.0)
    found = {}
    for longer in ("spread", "cut"):
        options = FrameOptions(image=IMAGE, frames=5, longer=longer)
        found[longer] = FrameCodec.prepare(clip, options)[:, 0, 0, 0].tolist()
        remark = FrameCodec.remark(clip, options)
        assert remark is not None and remark.startswith("longer than 5 frames at 4 a second")
        assert FrameCodec.remark(moving_square(5), options) is None
    assert found == {"spread": [2, 6, 10, 14, 18], "cut": [0, 1, 2, 3, 4]}
    with pytest.raises(
        ValueError, match=r"a clip lasts 5\.0 s, but it may have 5 frames at 4 a second"
    ):
        FrameCodec.prepare(clip, FrameOptions(image=IMAGE, frames=5, longer="refuse"))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"frames": 0}, "modalities.video.frames is 0; it must be at least 1"),
        ({"fps": 0}, "modalities.video.fps is 0.0; give frames a second"),
        ({"longer": "wait"}, "modalities.video.longer is 'wait'; choose from spread, cut, refuse"),
        ({"image": "vq"}, "modalities.video.image is 'vq', which is no mapping"),
        ({"image": {"codes": 1}}, "modalities.video.image.codes is 1; it must be at least 2"),
        ({"image": {"codes": "x"}}, "modalities.video.image.codes is 'x', which is no whole"),
        ({"image": {"code": 9}}, r"modalities.video.image has unknown field 'code' \(did you mean"),
        ({"image": {"codec": "vqq"}}, "modalities.video.image.*there is no codec 'vqq'"),
        ({"image": {"codec": "patches"}}, "image.codec is 'patches', which is continuous"),
    ],
)
def test_wrong_options(given: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        modalities_from({"video": {"codec": "frames", **given}})


def test_the_codec_of_frames_is_one_of_images() -> None:
    with pytest.raises(ValueError, match=r"image\.codec is 'units', which is for sound"):
        FrameOptions(image={"codec": "units"}).check_files()


def test_options_of_the_codec_inside_are_laid_over_each_other() -> None:
    base = {"video": {"codec": "frames", "image": {"codec": "vq", "size": 32, "codes": 64}}}
    found = merged(base, {"video": {"image": {"codes": "128"}, "fps": "2"}})
    video = modalities_from(found)["video"].options
    assert isinstance(video, FrameOptions)
    assert video.fps == 2.0
    assert video.image == {"codec": "vq", "size": 32, "codes": 128, "steps": 1200}
    assert FrameOptions().image["size"] == 16
    assert FrameOptions(image={"codes": 9}).max_length == 8 * 17


def test_reused_tokenizers_decide(codec: FrameCodec) -> None:
    theirs = {"video": ("frames", codec.options)}

    def decided(**given: Any) -> ModalityConfig:
        mine = modalities_from({"video": {"codec": "frames", **given}})
        return resolved(mine, theirs, "run/tokenizers")["video"]

    assert decided().options == codec.options
    assert decided(image={"codes": 16}, frames=5).options == codec.options
    trained = decided(image={"steps": 7}).options  # how it was trained is no matter
    assert isinstance(trained, FrameOptions) and trained.image == {
        **codec.options.image,
        "steps": 7,
    }
    with pytest.raises(
        ValueError, match=r"modalities\.video\.image\.codes is 9, but the tokenizers"
    ):
        decided(image={"codes": 9})
    with pytest.raises(ValueError, match=r"modalities\.video\.frames is 9, but the tokenizers"):
        decided(frames=9)
    assert asdict(decided().options) == asdict(codec.options)


class OneWay(ToyCodec):
    """Frames that cannot be made again."""

    cannot_decode = "this network has no decoder; give vq"

    def __init__(self) -> None:
        super().__init__("discrete", 5, 4)


def test_frames_that_cannot_be_decoded() -> None:
    options = FrameOptions()
    codec = FrameCodec.__new__(FrameCodec)
    codec.options = options
    codec.cannot_decode = f"its frames are of toy: {OneWay.cannot_decode}"
    with pytest.raises(ValueError, match="no video can be made of ids: its frames are of toy"):
        codec.decode([np.zeros(5, np.int64)])


def _generator(codec: FrameCodec) -> Generator:
    tokenizers = toy_tokenizers(6)
    tokenizers = TokenizerSet(tokenizers.text, {"video": codec})
    torch.manual_seed(0)
    modalities = tuple(Modality(*m) for m in tokenizers.modalities)
    config = ModelConfig(modalities=modalities, d_model=16, n_layers=1, d_state=4)
    return Generator(MultimodalModel(config).eval(), tokenizers)


def test_generated_clips_are_whole_frames_and_no_more_than_frames(codec: FrameCodec) -> None:
    generator = _generator(codec)
    prompts: Sequence[Any] = [[] for _ in range(12)]
    clips = generator.to("video", prompts, temperature=3.0, seed=1)
    lengths = {len(clip.frames) for clip in clips}
    assert lengths <= {1, 2, 3, 4, 5} and len(lengths) > 1
    assert all(clip.frames.shape[1:] == (8, 8, 3) for clip in clips)
    (short,) = generator.to("video", [[]], max_tokens=7)
    assert len(short.frames) == 1
    with pytest.raises(ValueError, match="max_tokens is 4, but video takes at least 5"):
        generator.to("video", [[]], max_tokens=4)


def test_behind_the_last_frame_comes_the_end(codec: FrameCodec) -> None:
    tokenizers = TokenizerSet(toy_tokenizers(6).text, {"video": codec})
    low = tokenizers.sizes[0]
    grammar = Grammar(tokenizers, ((0, low), (low, low + codec.size)))

    def allowed(length: int) -> list[int]:
        return grammar.mask(Cursor(1, length))[low:].nonzero().flatten().tolist()

    assert allowed(0) == [16] and allowed(1) == list(range(16))
    assert allowed(5) == [16, 17] and allowed(25) == [17]
