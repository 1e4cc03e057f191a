"""Scores of generated digit scenes: are digits, colours and places those of the caption?

A support vector machine that has only seen real handwriting (`SceneReader`) reads generated
pictures, and what it finds is compared with the caption; generated captions are parsed and compared
with what the picture or the utterance shows. The same reader on the real validation pictures gives
the ceiling of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..examples import Example
from .facts import Fact, parse_facts
from .proportions import clustered_proportion
from .reader import SceneReader

__all__ = ["CEILING_OF", "QUESTIONS", "TASKS", "Answers", "score", "score_captions", "score_images"]

QUESTIONS = ("digit", "colour", "position", "fact", "scene")
"""Asked of every digit that the caption names: is the digit, the colour, anything at all, and all
of it there; asked of every scene: are these facts there, and nothing else."""

_SAME: dict[str, Callable[[Fact, Fact], bool]] = {
    "digit": lambda it, fact: it.digit == fact.digit,
    "colour": lambda it, fact: it.colour == fact.colour,
    "fact": lambda it, fact: it == fact,
}
"""Of all that is said of a place: a caption that says two things of one is right in neither."""

TASKS = {
    "text_to_image": "picture from caption",
    "image_to_text": "caption from picture",
    "speech_to_text": "caption from voice",
}
"""Tasks that are scored, and what tables call them."""
CEILING_OF = "text_to_image"
"""The task that the reader's answers on real pictures bound."""

EXAMPLES = 200
"""Validation documents that are judged unless told otherwise."""


class Answers(Protocol):
    """What `score` asks of a generator; see generation.Generator."""

    def to_image(self, texts: Sequence[str], *, seed: int, **sampling: Any) -> list[np.ndarray]: ...

    def to_text(self, **inputs: Any) -> list[str]: ...


def score(
    generator: Answers,
    examples: Sequence[Example],
    *,
    modalities: Iterable[str],
    one_way: Mapping[str, str] | None = None,
    reader: SceneReader | None = None,
    limit: int = EXAMPLES,
    seed: int = 0,
    **sampling: Any,
) -> dict[str, Any]:
    """Accuracy of generated pictures and captions.

    Args:
        generator: of a trained run.
        examples: validation documents of the embedded scenes; those without facts are omitted.
        modalities: names of the run's modalities; decides which tasks there are.
        one_way: by name of those that cannot be generated the reason (TokenizerSet.one_way).
        reader: trained on the data's seed; None: of seed 0.
        limit: examples that are used, the first ones.
        seed: of the sampling; picture i has seed + i.
        sampling: passed to `to_image`, such as steps and guidance.

    Returns:
        {"examples": n, "ceiling": …, "text_to_image": …, "image_to_text": …, "speech_to_text": …},
        each task as {question: {"correct", "total", "share", "low", "high"}} with 95 % intervals
        over scenes (clustered_proportion); tasks whose modality is not there are omitted. Where
        pictures cannot be drawn, their task and the ceiling are; "left_out" says why, by task.

    Raises:
        ValueError: no example has facts, as with a user's own documents.
    """
    known = [e for e in examples if e.facts][:limit]
    if not known:
        raise ValueError(
            "no validation document has facts to judge by; only the embedded digit scenes do "
            "(data.source digits)"
        )
    reader = reader or SceneReader(seed=0)
    facts = [e.facts for e in known]
    names = set(modalities)
    result: dict[str, Any] = {"examples": len(known)}
    if "image" in names:
        real = [e.items["image"] for e in known]
        if why := (one_way or {}).get("image"):
            result["left_out"] = {"text_to_image": why}
        else:
            result["ceiling"] = score_images(reader, real, facts)
            captions = [e.caption for e in known]
            made = generator.to_image(captions, seed=seed, **sampling)
            result["text_to_image"] = score_images(reader, made, facts)
        result["image_to_text"] = score_captions(generator.to_text(images=real), facts)
    if "speech" in names:
        spoken = [e.items["speech"] for e in known]
        result["speech_to_text"] = score_captions(generator.to_text(speech=spoken), facts)
    return result


def score_images(
    reader: SceneReader, images: Sequence[np.ndarray], facts: Sequence[Sequence[Fact]]
) -> dict[str, Any]:
    """What the reader finds in (32, 32, 3) uint8 pictures against the facts they should show."""
    return _score(reader.read(np.stack(list(images))) if len(images) else [], facts)


def score_captions(captions: Sequence[str], facts: Sequence[Sequence[Fact]]) -> dict[str, Any]:
    """What captions state against the facts that they should state; "scene" is the exact match."""
    return _score([parse_facts(caption) for caption in captions], facts)


def _score(found: Sequence[set[Fact]], wanted: Sequence[Sequence[Fact]]) -> dict[str, Any]:
    if len(found) != len(wanted):
        raise ValueError(f"{len(found)} answers for {len(wanted)} scenes; give one for each")
    right: dict[str, list[int]] = {question: [] for question in QUESTIONS}
    for got, facts in zip(found, wanted, strict=True):
        there = [([it for it in got if it.position == fact.position], fact) for fact in facts]
        right["position"].append(sum(bool(said) for said, _ in there))
        for question, same in _SAME.items():
            right[question].append(sum(bool(s) and all(same(i, f) for i in s) for s, f in there))
        right["scene"].append(int(got == set(facts)))
    asked = [len(facts) for facts in wanted]
    return {
        question: clustered_proportion(
            counts, [1] * len(asked) if question == "scene" else asked
        )._asdict()
        for question, counts in right.items()
    }
