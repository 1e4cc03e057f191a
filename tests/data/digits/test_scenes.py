"""Scenes: real handwriting, disjoint splits, reproducible, and legible to an independent reader."""

from __future__ import annotations

import numpy as np
import pytest

from mixture_of_mamba.data.digits.canvas import quadrants
from mixture_of_mamba.data.digits.handwriting import load_handwriting
from mixture_of_mamba.data.digits.reader import SceneReader, drawn_digits
from mixture_of_mamba.data.digits.scene import make_scenes


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    return SceneReader(seed=0)


def test_no_handwritten_sample_is_in_both_splits() -> None:
    from sklearn.datasets import load_digits

    parts = load_handwriting(0)
    train = {sample.tobytes() for sample in parts["train"].ink}
    held = {sample.tobytes() for sample in parts["validation"].ink}
    assert not train & held
    assert len(parts["train"].ink) + len(parts["validation"].ink) == len(load_digits().target)


def test_a_scene_does_not_depend_on_how_many_there_are() -> None:
    train = load_handwriting(0)["train"]
    few, many = make_scenes(3, train, "train", 0), make_scenes(20, train, "train", 0)
    for a, b in zip(few, many, strict=False):
        assert (a.facts, a.caption, a.order) == (b.facts, b.caption, b.order)
        np.testing.assert_array_equal(a.image, b.image)


def test_seeds_and_splits_give_other_scenes() -> None:
    train = load_handwriting(0)["train"]
    captions = {
        tuple(s.caption for s in make_scenes(5, train, split, seed))
        for split in ("train", "validation")
        for seed in (0, 1)
    }
    assert len(captions) == 4


def test_reader_reads_held_out_real_digits(reader: SceneReader) -> None:
    tiles, labels = drawn_digits(load_handwriting(0)["validation"], seed=99, views=1)
    assert (reader.digits(tiles) == labels).mean() >= 0.97


def test_reader_finds_digit_colour_and_place_of_held_out_scenes(reader: SceneReader) -> None:
    scenes = make_scenes(200, load_handwriting(0)["validation"], "validation", 0)
    read = reader.read(np.stack([scene.image for scene in scenes]))
    right = np.mean([facts == set(s.facts) for facts, s in zip(read, scenes, strict=True)])
    assert right >= 0.97


def test_reader_sees_nothing_on_empty_canvases(reader: SceneReader) -> None:
    assert reader.read(np.full((2, 32, 32, 3), 40, np.uint8)) == [set(), set()]


def test_reader_refuses_other_sizes(reader: SceneReader) -> None:
    with pytest.raises(ValueError, match=r"\(n, 32, 32, 3\)"):
        reader.read(np.zeros((1, 16, 16, 3), np.uint8))


def test_quadrants_are_in_the_order_of_the_positions() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:16, 16:] = 1
    image[16:, :16] = 2
    image[16:, 16:] = 3
    assert [tile.min() for tile in quadrants(image)] == [0, 1, 2, 3]
    assert [tile.max() for tile in quadrants(image)] == [0, 1, 2, 3]


def test_no_canvas_is_flat() -> None:
    scenes = make_scenes(50, load_handwriting(0)["train"], "train", 0)
    empty = [
        tile
        for scene in scenes
        for place, tile in zip(
            ("top left", "top right", "bottom left", "bottom right"),
            quadrants(scene.image),
            strict=True,
        )
        if place not in {fact.position for fact in scene.facts}
    ]
    assert min(float(tile.std()) for tile in empty) > 0.5
