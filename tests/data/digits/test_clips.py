"""Clips of moving digits: captions that are read back, motion that is what they say, and data."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixture_of_mamba.data.build import build
from mixture_of_mamba.data.digits.clips import ClipScene, Move, make_clips, parse_moves
from mixture_of_mamba.data.digits.facts import COLOURS
from mixture_of_mamba.data.digits.handwriting import Handwriting, load_handwriting
from mixture_of_mamba.data.digits.source import DigitScenes
from mixture_of_mamba.training.config import RunConfig


def _silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def clips() -> list[ClipScene]:
    handwriting = load_handwriting(0)["train"]
    return list(make_clips(300, 1.0, handwriting, "train", 0, _silent).values())


def test_captions_are_read_back(clips: list[ClipScene]) -> None:
    for scene in clips:
        assert parse_moves(scene.caption) == set(scene.moves), scene.caption
    assert len({scene.caption.split()[0] for scene in clips}) > 5
    assert {len(scene.moves) for scene in clips} == {1, 2}


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        (
            "a red three moves from the top left to the lower right",
            {(3, "red", "top left", "bottom right")},
        ),
        ("runs to the top from the left a blue one", {(1, "blue", "left", "top")}),
        ("at the right stays a green two", {(2, "green", "right", "right")}),
        ("a red three moves from the top left", set()),
        ("a red red three moves from the top to the left", {(3, "red", "top", "left")}),
        (
            "a red moves from the top, a blue three from left to right",
            {(3, "blue", "left", "right")},
        ),
        ("a red three from the left right to the top", set()),
        ("", set()),
    ],
)
def test_broken_captions_lose_what_they_break(text: str, moves: set[Any]) -> None:
    assert parse_moves(text) == {Move(*move) for move in moves}


def test_digits_move_as_the_caption_says(clips: list[ClipScene]) -> None:
    seen = 0
    for scene in clips:
        frames, rate = scene.clip
        assert rate == 4.0 and 4 <= len(frames) <= 8
        assert frames.shape[1:] == (16, 16, 3) and frames.dtype == np.uint8
        if len(scene.moves) > 1:
            continue
        (move,) = scene.moves
        colour = np.asarray(COLOURS[move.colour])
        ground = frames.astype(float).min(0)  # the digit passes over it, brighter
        lit = ((frames - ground) @ colour).clip(0) + 1e-9
        rows, columns = np.mgrid[:16, :16]
        centres = [
            ((image * rows).sum() / image.sum(), (image * columns).sum() / image.sum())
            for image in lit
        ]
        (top, left), (bottom, right) = centres[0], centres[-1]
        for words, before, after in (("top bottom", top, bottom), ("left right", left, right)):
            low, high = words.split()
            if low in move.start and high in move.end:
                assert after > before + 3, scene.caption
                seen += 1
            if high in move.start and low in move.end:
                assert after < before - 3, scene.caption
                seen += 1
    assert seen > 50


def test_a_clip_does_not_depend_on_how_many_there_are() -> None:
    handwriting = load_handwriting(0)["train"]
    few, many = (make_clips(n, 0.5, handwriting, "train", 3, _silent) for n in (20, 60))
    assert 4 < len(few) < 16 and list(few) == [i for i in many if i < 20]
    for i, scene in few.items():
        assert scene.caption == many[i].caption
        np.testing.assert_array_equal(scene.clip.frames, many[i].clip.frames)


def _config(modalities: dict[str, Any], tmp_path: Path, **data: Any) -> RunConfig:
    plain = {"digits": {"scenes": 40, "text_fraction": 0.0}, "cache": str(tmp_path), **data}
    return RunConfig.from_dict({"modalities": modalities, "data": plain})


TEXT = {"codec": "bpe", "vocabulary": 300}
IMAGE = {"codec": "vq", "codes": 16, "steps": 2}
VIDEO = {"codec": "frames", "image": {"codec": "vq", "codes": 16, "steps": 2}}


def test_scenes_of_a_run_without_videos_stay_as_they_are(tmp_path: Path) -> None:
    plain = _config({"text": TEXT, "image": IMAGE}, tmp_path)
    both = _config({"text": TEXT, "image": IMAGE, "video": VIDEO}, tmp_path)
    source, beside = (DigitScenes(c.data, c.modalities) for c in (plain, both))
    stills = [d for d in beside.training.documents if ("video" not in dict(d))]
    assert 0 < len(stills) < len(source.training.documents) == len(beside.training.documents)
    for before, after in zip(source.training.documents, beside.training.documents, strict=True):
        names = [name for name, _ in after]
        if "video" in names:
            assert [n.replace("video", "image") for n in names] == [n for n, _ in before]
            continue
        assert dict(before)["text"] == dict(after)["text"]
        np.testing.assert_array_equal(
            source.training.items["image"][int(dict(before)["image"])],
            beside.training.items["image"][int(dict(after)["image"])],
        )


def test_splits_share_no_handwriting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: dict[int, set[bytes]] = {}
    draw = Handwriting.draw

    def noted(self: Handwriting, digit: int, rng: np.random.Generator) -> np.ndarray:
        ink = draw(self, digit, rng)
        drawn.setdefault(len(self.labels), set()).add(ink.tobytes())
        return ink

    monkeypatch.setattr(Handwriting, "draw", noted)
    config = _config({"text": TEXT, "video": VIDEO}, tmp_path, validation_fraction=0.5)
    source = DigitScenes(config.data, config.modalities)
    assert all("video" in dict(d) for d in source.training.documents)
    train, validation = drawn.values()
    assert train and validation and not train & validation


def test_clips_become_data(tmp_path: Path) -> None:
    config = _config({"text": TEXT, "image": IMAGE, "video": VIDEO}, tmp_path, window=192)
    data = build(config.data, config.modalities, progress=False)
    counts = data.train.tokens_by_modality()
    assert all(counts[name] > 0 for name in ("text", "image", "video"))
    video, marker = data.tokenizers.names.index("video"), data.tokenizers.codec("video").size - 2
    ids = data.train.tokens[data.train.modality_ids == video]
    ends = np.flatnonzero(ids == marker + 1)
    for begin, end in pairwise([-1, *ends]):  # none was cut
        clip = ids[begin + 1 : end].reshape(-1, 17)
        assert 4 <= len(clip) <= 8 and (clip[:, 0] == marker).all()
    kinds = {name for e in data.validation_examples for name in e.items}
    assert kinds <= {"text", "image", "video"} and "text" in kinds
    for example in data.validation_examples:
        if "video" in example.items:
            assert not example.facts and parse_moves(example.caption)
            assert example.items["video"].frames.shape[1:] == (16, 16, 3)
    assert data.facts["notes"] == []


def test_options_that_do_not_fit_the_clips(tmp_path: Path) -> None:
    large = {**VIDEO, "image": {"codec": "vq", "size": 32}}
    with pytest.raises(ValueError, match=r"modalities\.video\.image\.size is 32.*16 pixels wide"):
        _config({"text": TEXT, "video": large}, tmp_path, window=1024)
    with pytest.raises(ValueError, match="window is 128, but an item of 'video'"):
        _config({"text": TEXT, "video": VIDEO}, tmp_path, window=128)
    few = _config({"text": TEXT, "video": {**VIDEO, "frames": 6}}, tmp_path)
    (note,) = DigitScenes(few.data, few.modalities).notes
    assert note.startswith("video longer than 6 frames at 4 a second: frames are taken evenly")
    assert asdict(few.modalities["video"].options)["frames"] == 6
