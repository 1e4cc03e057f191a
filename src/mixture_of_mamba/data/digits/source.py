"""The embedded source: spoken digit scenes beside Python's documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...modalities.config import ModalityConfig
from ...modalities.registry import codec_class
from ...modalities.speech.mel import SAMPLE_RATE
from ..config import DataConfig
from ..corpus import Corpus, Item
from ..errors import BadDocuments
from ..examples import MAX_EXAMPLES, Example
from ..stage_log import StageLog
from .clips import ClipScene, make_clips
from .config import clip_share
from .handwriting import load_handwriting
from .python_docs import MOST_CHARACTERS, python_documentation
from .scene import Scene, make_scenes
from .voices import Speaking, choose_voice

__all__ = ["DigitScenes"]

#: Share of the topics and modules whose text is kept for validation.
TEXT_HELD_OUT = 0.1
#: Modalities of a scene; the second shows it: as a picture, or as a clip.
_ITEMS = ("text", "image", "speech")
#: Real text that is read for each scene, so that a tiny data set need not read all of it.
CHARACTERS_A_SCENE = 600


class DigitScenes:
    """Scenes from disjoint handwriting, and real text from disjoint modules.

    Speaking runs in the background from the start; `finish` collects it.
    """

    def __init__(
        self,
        config: DataConfig,
        modalities: Mapping[str, ModalityConfig],
        log: StageLog | None = None,
    ) -> None:
        self.text_fraction: float | None = config.digits.text_fraction
        self.bad = BadDocuments(skip=False)
        self.notes: list[str] = []
        self._log = log = log or StageLog(enabled=False)
        handwriting = load_handwriting(config.seed)
        held = max(1, round(config.digits.scenes * config.validation_fraction))
        counts = {"validation": held, "train": config.digits.scenes - held}
        self._scenes = {
            split: make_scenes(count, handwriting[split], split, config.seed, log.still)
            for split, count in counts.items()
        }
        share = clip_share(modalities)
        self._clips = {
            split: make_clips(count, share, handwriting[split], split, config.seed, log.still)
            for split, count in counts.items()
        }
        self._names = frozenset(modalities)
        speech = modalities.get("speech")
        self._speaking: Speaking | None = None
        self._waveforms: list[np.ndarray] = []
        if speech is not None:
            self._speaking = self._speak(config.seed, min(MAX_EXAMPLES, held), speech)
        try:
            real = _real_text(config, log) if config.digits.text_fraction else {}
            self.training, self.validation = (
                _corpus(
                    self._scenes[split],
                    self._clips[split],
                    _orders(self._scenes[split], config.digits.caption_first, config.seed),
                    modalities,
                    real.get(split, []),
                )
                for split in ("train", "validation")
            )
            self.notes = _remarks(self._clips, modalities)
        except BaseException:
            self.stop()
            raise

    def _speak(self, seed: int, keep: int, speech: ModalityConfig) -> Speaking:
        captions, voices = [], []
        for number, (split, scenes) in enumerate(self._scenes.items()):
            for i, scene in enumerate(scenes):
                captions.append(self._clips[split].get(i, scene).caption)
                voices.append(choose_voice(seed, number, i))
        if speech.codec == "units":  # the speaking processes prepare for it
            return Speaking(captions, voices, keep)
        codec, options = codec_class(speech.name), speech.options
        return Speaking(captions, voices, keep, lambda w: codec.prepare(_sound(w), options))

    def finish(self) -> None:
        """Waits for the speech."""
        if self._speaking is not None:
            spoken = self._speaking.result(self._log.still)
            self._speaking = None
            held = len(self._scenes["validation"])
            self._waveforms = spoken.waveforms
            self.validation.items["speech"] = spoken.items[:held]
            self.training.items["speech"] = spoken.items[held:]

    def stop(self) -> None:
        """Ends the speaking processes."""
        if self._speaking is not None:
            self._speaking.stop()

    def examples(self) -> list[Example]:
        """The first validation scenes; clips have no facts to be judged by."""
        examples = []
        for i, scene in enumerate(self._scenes["validation"][:MAX_EXAMPLES]):
            clip = self._clips["validation"].get(i)
            items: dict[str, Any] = {"text": scene.caption, "image": scene.image}
            if clip is not None:
                items = {"text": clip.caption, "video": clip.clip}
            if i < len(self._waveforms):
                items["speech"] = _sound(self._waveforms[i])
            items = {name: item for name, item in items.items() if name in self._names}
            examples.append(Example(items, () if clip is not None else scene.facts))
        return examples


def _orders(scenes: list[Scene], caption_first: float, seed: int) -> list[list[str]]:
    """Of each scene the order of its items, with captions before pictures as often as asked for."""
    draws = np.random.default_rng([seed, 29]).random(len(scenes))
    orders = []
    for scene, draw in zip(scenes, draws, strict=True):
        order = [_ITEMS[place] for place in scene.order]
        text, image = order.index("text"), order.index("image")
        if caption_first != 0.5 and (text < image) != (draw < caption_first):
            order[text], order[image] = "image", "text"
        orders.append(order)
    return orders


def _corpus(
    scenes: list[Scene],
    clips: Mapping[int, ClipScene],
    orders: list[list[str]],
    modalities: Mapping[str, ModalityConfig],
    real_text: list[str],
) -> Corpus:
    documents: list[list[Item]] = []
    shown: dict[str, list[Any]] = {"image": [], "video": []}
    for i, scene in enumerate(scenes):
        clip = clips.get(i)
        kind, item = ("image", scene.image) if clip is None else ("video", clip.clip)
        items: dict[str, Item] = {
            "text": ("text", scene.caption if clip is None else clip.caption),
            "image": (kind, len(shown[kind])),
            "speech": ("speech", i),
        }
        shown[kind].append(item)
        row = [items[name] for name in orders[i]]
        documents.append([item for item in row if item[0] in modalities])
    documents += [[("text", text)] for text in real_text]
    kept: dict[str, Sequence[Any]] = {}
    for name, found in shown.items():
        if (modality := modalities.get(name)) is not None:
            codec, options = codec_class(modality.name), modality.options
            kept[name] = [codec.prepare(item, options) for item in found]
    return Corpus(documents, kept)


def _remarks(
    clips: Mapping[str, Mapping[int, ClipScene]], modalities: Mapping[str, ModalityConfig]
) -> list[str]:
    """What the codec of videos leaves out of clips."""
    if (video := modalities.get("video")) is None:
        return []
    codec, options = codec_class(video.name), video.options
    found = [
        codec.remark(clip.clip, options) for split in clips.values() for clip in split.values()
    ]
    counts = Counter(remark for remark in found if remark is not None)
    return [f"video {remark}; {count:,} of the embedded clips" for remark, count in counts.items()]


def _sound(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """16-bit samples as an item."""
    return samples.astype(np.float32) / 32767, SAMPLE_RATE


def _real_text(config: DataConfig, log: StageLog | None = None) -> dict[str, list[str]]:
    limit = (5 if config.digits.text_code else 1) * MOST_CHARACTERS
    most = min(limit, max(100_000, config.digits.scenes * CHARACTERS_A_SCENE))
    texts = python_documentation(most, config.digits.text_code, log.still if log else None)
    origins = sorted({origin for origin, _ in texts})
    order = np.random.default_rng([config.seed, 23]).permutation(len(origins))
    held = {origins[i] for i in order[: max(1, int(len(origins) * TEXT_HELD_OUT))]}
    return {
        "train": [text for origin, text in texts if origin not in held],
        "validation": [text for origin, text in texts if origin in held],
    }
