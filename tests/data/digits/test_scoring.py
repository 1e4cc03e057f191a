"""The independent eye: what counts as right, with which uncertainty, and its own ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from mixture_of_mamba.data.digits.facts import Fact
from mixture_of_mamba.data.digits.handwriting import load_handwriting
from mixture_of_mamba.data.digits.proportions import clustered_proportion
from mixture_of_mamba.data.digits.reader import SceneReader, drawn_digits
from mixture_of_mamba.data.digits.scene import make_scenes
from mixture_of_mamba.data.digits.scoring import score, score_captions, score_images
from mixture_of_mamba.data.examples import Example


@cache
def reader() -> SceneReader:
    return SceneReader(seed=0)


@cache
def examples(count: int = 60) -> tuple[Example, ...]:
    scenes = make_scenes(count, load_handwriting(0)["validation"], "validation", 0)
    silence = (np.zeros(10, np.float32), 22_050)
    return tuple(
        Example({"text": s.caption, "image": s.image, "speech": silence}, s.facts) for s in scenes
    )


class Perfect:
    """Answers with what was asked about."""

    def __init__(self) -> None:
        self.by_caption = {e.caption: e for e in examples()}
        self.seeds: list[int] = []

    def to_image(self, texts: Sequence[str], *, seed: int, **sampling: Any) -> list[np.ndarray]:
        self.seeds.append(seed)
        assert sampling == {"guidance": 3.0}
        return [self.by_caption[t].items["image"] for t in texts]

    def to_text(self, *, images: Any = None, speech: Any = None) -> list[str]:
        if images is not None:
            by_image = {e.items["image"].tobytes(): e.caption for e in examples()}  # type: ignore[union-attr]
            return [by_image[i.tobytes()] for i in images]
        return ["a red three at the top left" for _ in speech]


def test_the_reader_knows_held_out_handwriting() -> None:
    """>= 97 % of real digits that neither it nor a model has ever seen."""
    tiles, labels = drawn_digits(load_handwriting(0)["validation"], seed=1, views=1)
    assert (reader().digits(tiles) == labels).mean() >= 0.97


def test_a_perfect_generator_reaches_the_ceiling() -> None:
    perfect = Perfect()
    found = score(
        perfect,
        examples(),
        modalities=["text", "image", "speech"],
        reader=reader(),
        guidance=3.0,
    )
    assert found["examples"] == 60
    assert found["text_to_image"] == found["ceiling"]
    assert found["ceiling"]["digit"]["share"] >= 0.97
    assert found["ceiling"]["colour"]["share"] >= 0.98
    assert found["image_to_text"]["scene"]["correct"] == 60
    assert found["speech_to_text"]["scene"]["share"] < 0.1
    assert perfect.seeds == [0]


def test_another_picture_is_wrong() -> None:
    facts = [e.facts for e in examples()]
    images = [e.items["image"] for e in examples()]
    right = score_images(reader(), images, facts)  # type: ignore[arg-type]
    wrong = score_images(reader(), images[1:] + images[:1], facts)  # type: ignore[arg-type]
    assert wrong["fact"]["share"] < 0.1 < right["fact"]["share"]
    black = score_images(reader(), [np.zeros((32, 32, 3), np.uint8)] * 60, facts)
    assert black["position"]["correct"] == 0


def test_each_question_is_counted_on_its_own() -> None:
    facts = [[Fact(3, "red", "top left"), Fact(4, "blue", "top right")]]
    found = score_captions(["a green three at the top left and a blue four at the top left"], facts)
    right = {question: share["correct"] for question, share in found.items()}
    # the second statement stands at the first one's place, so one of them is all that is there
    assert found["digit"]["total"] == 2
    assert found["scene"]["total"] == 1
    assert right["position"] == 1
    assert right["fact"] == right["scene"] == 0
    found = score_captions(["a red three at the top left"], facts)
    assert {q: s["correct"] for q, s in found.items()} == {
        "digit": 1, "colour": 1, "position": 1, "fact": 1, "scene": 0,
    }  # fmt: skip


def test_own_documents_have_no_facts_to_judge() -> None:
    own = [Example({"text": "a house", "image": np.zeros((32, 32, 3), np.uint8)})]
    with pytest.raises(ValueError, match="no validation document has facts"):
        score(Perfect(), own, modalities=["text", "image"], reader=reader())


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # closed forms: 0 of n is 0..z²/(n+z²), and its mirror
        (0, 10, 0.0, 3.841459 / 13.841459),
        (10, 10, 10 / 13.841459, 1.0),
        # R: prop.test(15, 50, correct = FALSE)
        (15, 50, 0.1910300, 0.4375063),
    ],
)
def test_one_trial_a_scene_is_wilson_interval_s_interval(
    correct: int, total: int, low: float, high: float
) -> None:
    share = clustered_proportion([1] * correct + [0] * (total - correct), [1] * total)
    assert (share.correct, share.total, share.share) == (correct, total, correct / total)
    assert share.low == pytest.approx(low, abs=1e-4)
    assert share.high == pytest.approx(high, abs=1e-4)


def test_scenes_that_are_right_as_a_whole_count_once() -> None:
    """Three digits that are always right together say no more than one."""
    together = clustered_proportion([3] * 15 + [0] * 35, [3] * 50)
    assert (together.correct, together.total) == (45, 150)
    assert together[2:] == pytest.approx((0.3, 0.1910300, 0.4375063), abs=1e-4)
    assert clustered_proportion([3] * 10, [3] * 10).low == pytest.approx(10 / 13.841459)


@pytest.mark.parametrize("scenes", [30, 64])
@pytest.mark.parametrize("agreement", [0.0, 0.3, 0.7, 1.0])
def test_intervals_of_facts_hold_the_true_share(scenes: int, agreement: float) -> None:
    """Scenes of one to three digits whose answers agree more or less (beta-binomial; 0: not at all,
    1: always). With each digit as a trial of its own, 80 of a hundred hold it where they agree."""
    rng, draws, held = np.random.default_rng(scenes), 400, []
    for share in (0.1, 0.5, 0.9):
        for _ in range(draws):
            trials = rng.integers(1, 4, scenes)
            each = np.full(scenes, share)
            if agreement == 1:
                each = (rng.random(scenes) < share).astype(float)
            elif agreement:
                size = (1 - agreement) / agreement
                each = rng.beta(share * size, (1 - share) * size, scenes)
            found = clustered_proportion(rng.binomial(trials, each).tolist(), trials.tolist())
            held.append(found.low <= share <= found.high)
    assert 0.93 <= np.mean(held) <= 0.98


def test_no_trials_have_no_share() -> None:
    with pytest.raises(ValueError, match="one trial at least"):
        clustered_proportion([], [])
    with pytest.raises(ValueError, match=r"\[3\] of \[2\] are no shares"):
        clustered_proportion([3], [2])


def test_two_statements_about_one_place_are_right_in_neither() -> None:
    """Whatever order a set of statements has in this process."""
    facts = [[Fact(3, "red", "top left")]]
    said = "a red three at the top left and a red four at the top left"
    found = {q: s["correct"] for q, s in score_captions([said], facts).items()}
    assert found == {"digit": 0, "colour": 1, "position": 1, "fact": 0, "scene": 0}
