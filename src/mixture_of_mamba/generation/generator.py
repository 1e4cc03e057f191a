"""From any modality to any other: prompts in, text, pictures and sound out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models import MultimodalModel
from ..seeding import whole_number
from .decoders import Decoder, decoder_maker
from .diffusion import DiffusionOptions, DiffusionSampler, SegmentProgress
from .grammar import Cursor, Grammar
from .guidance import GuidedDecoder
from .loop import Decoding, Event
from .prompts import Prompt, encode_prompts
from .sampling import Sampling
from .segments import decode_segments, split_segments
from .sequence import TokenSequence

if TYPE_CHECKING:
    from ..modalities.documents import Segment
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["MOST_TOKENS", "Generator"]

MOST_TOKENS = 400
"""New tokens of a document at most, unless told otherwise."""

MOST_TOKENS_TO = {"text": 100}
"""The same where one modality is generated that has its own; a fixed length counts before it."""

_SAMPLING = {f.name for f in fields(Sampling)}
_DIFFUSION = {f.name for f in fields(DiffusionOptions)}


class Generator:
    """A model and its tokenizers, ready to continue documents.

    Options of all methods that generate are the fields of `Sampling` (temperature, top_k, top_p,
    min_p, repetition_penalty) and, for continuous modalities, of `DiffusionOptions` (sampler,
    steps). `guidance` serves both: how far to lean away from what the model would generate without
    the prompt; 1 is none.

    Args:
        model: in evaluation mode.
        tokenizers: that its data was made with.
        batch_size: most sequences that are decoded together.
        weights: "float32", "bfloat16" or "int8" decodes natively on the CPU with weights in this
            format, whatever the model's own; "auto" with the faster of the first two, as measured
            on this machine; None: as the model has them.

    Example:
        >>> generator = Generator.from_run("runs/a")
        >>> picture, = generator.to_image(["a red three at the top left"], seed=1)
    """

    def __init__(
        self,
        model: MultimodalModel,
        tokenizers: TokenizerSet,
        *,
        batch_size: int = 64,
        weights: str | None = None,
    ) -> None:
        self.model, self.tokenizers = model, tokenizers
        self.batch_size, self.weights = batch_size, weights
        ours = [(m.name, m.kind, m.size) for m in model.config.modalities]
        if ours != tokenizers.modalities:
            raise ValueError(
                f"the tokenizers are for {tokenizers.modalities}, but the model has {ours}; "
                "use the tokenizers of the model's run"
            )

    @classmethod
    def from_run(
        cls, folder: str | Path, *, batch_size: int = 64, weights: str | None = None
    ) -> Generator:
        """The generator of a run folder.

        Raises:
            FileNotFoundError, ValueError: the folder holds no run, or a damaged one.
        """
        from ..training.runs import load_run

        run = load_run(folder)
        return cls(run.model, run.tokenizers, batch_size=batch_size, weights=weights)

    def to_image(self, texts: Sequence[str], *, seed: int = 0, **options: Any) -> list[np.ndarray]:
        """One (s, s, 3) uint8 picture per caption; see `complete`."""
        prompts = [[("text", text)] for text in _strings(texts)]
        return self._one_each(prompts, "image", seed, None, options)

    def to_speech(
        self,
        texts: Sequence[str],
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[tuple[np.ndarray, int]]:
        """One (waveform float32, samples a second) per text; see `complete`."""
        prompts = [[("text", text)] for text in _strings(texts)]
        return self._one_each(prompts, "speech", seed, max_tokens, options)

    def to_text(
        self,
        *,
        images: Sequence[np.ndarray] | None = None,
        speech: Sequence[tuple[np.ndarray, int]] | None = None,
        texts: Sequence[str] | None = None,
        seed: int = 0,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        **options: Any,
    ) -> list[str]:
        """One text per prompt, by default the most likely token at each step.

        A prompt is a text, an image and an utterance, as many of them as are given, in this order.
        """
        columns = [
            [(name, item) for item in column]
            for name, column in (("text", texts), ("image", images), ("speech", speech))
            if column is not None
        ]
        if not columns:
            raise ValueError("give images=, speech= or texts= to generate text from")
        if len({len(column) for column in columns}) > 1:
            raise ValueError(
                f"the prompts have {[len(c) for c in columns]} parts; give equally many of each"
            )
        options["temperature"] = temperature
        generated = self._one_each(
            list(zip(*columns, strict=True)), "text", seed, max_tokens, options
        )
        return [text.strip() for text in generated]

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        to: str | None = None,
        seed: int | Sequence[int] = 0,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[list[Segment]]:
        """Continue documents.

        Args:
            prompts: segments (modality, content) of each document so far.
            to: generate one segment of this modality. None: whatever the model goes on with, until
                it ends the document.
            seed: of the first prompt; prompt i has seed + i, and its result depends on nothing
                else, whatever is generated beside it. Or one seed per prompt.
            max_tokens: most new tokens of a document. None: the length of `to` where all its
                segments have one length, else 100 for text and 400 (MOST_TOKENS) for the rest.
            options: see the class.

        Returns:
            The new segments of each document, decoded. A segment of fixed length that max_tokens
            cut short is left out.

        Raises:
            ValueError: a modality that the model lacks, an empty prompt, or an option out of range.
        """
        generated: list[list[Event]] = [[] for _ in prompts]
        for event in self.events(prompts, to=to, seed=seed, max_tokens=max_tokens, **options):
            generated[event.row].append(event)
        return self.decode_segments(generated)

    def decode_segments(self, events: Sequence[Sequence[Event]]) -> list[list[Segment]]:
        """The new segments of each document from its events; see `complete`."""
        pieces = [split_segments(self.tokenizers, of_document) for of_document in events]
        return decode_segments(self.tokenizers, pieces)

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[tuple[str, Any]]:
        """(modality, token) of one document as they are sampled; a continuous token is the
        (p, dim) tensor of a whole segment. Takes what `complete` takes."""
        for event in self.events([prompt], **options):
            yield event.modality, event.token if event.values is None else event.values

    def events(
        self,
        prompts: Sequence[Prompt],
        *,
        to: str | None = None,
        seed: int | Sequence[int] = 0,
        max_tokens: int | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """The tokens of `complete` as they are sampled."""
        if to is not None:
            self.tokenizers.index(to)
        sequences = encode_prompts(self.tokenizers, prompts, to=to)
        if isinstance(seed, Sequence):
            seeds = [whole_number(s) for s in seed]
        else:
            seeds = [whole_number(seed) + i for i in range(len(prompts))]
        sampling, diffusion, guidance = split_options(options)
        cursor = Cursor(self.tokenizers.text_id if to is None else self.tokenizers.index(to))
        grammar = self._grammar(to)
        if max_tokens is None:
            max_tokens = self._most_tokens(to)
        make = decoder_maker(self.model, self.weights)
        with SegmentProgress(None if to is None else len(sequences)) as bar:
            sampler = DiffusionSampler(self.tokenizers.begin, diffusion, progress=bar.advance)
            for start in range(0, len(sequences), self.batch_size):
                here = slice(start, start + self.batch_size)
                part = sequences[here]
                events = Decoding(
                    self._decoder(make, to, guidance),
                    part,
                    [cursor] * len(part),
                    grammar,
                    sampling,
                    seeds=seeds[here],
                    max_tokens=max_tokens,
                    sampler=sampler,
                )
                for event in events:
                    yield event._replace(row=start + event.row)

    def _one_each(
        self, prompts: Sequence[Prompt], to: str, seed: int, max_tokens: int | None, options: Any
    ) -> list[Any]:
        """The content of one new segment per prompt."""
        length = self.tokenizers.fixed_length.get(to, max_tokens)
        generated = self.complete(prompts, to=to, seed=seed, max_tokens=length, **options)
        return [segments[0].content for segments in generated]

    def _most_tokens(self, to: str | None) -> int:
        if to is None:
            return MOST_TOKENS
        return self.tokenizers.fixed_length.get(to) or MOST_TOKENS_TO.get(to, MOST_TOKENS)

    def _grammar(self, to: str | None) -> Grammar:
        ranges = self.model.config.vocabulary_ranges
        if to is None:
            return Grammar(self.tokenizers, ranges, may_open=self.tokenizers.begin)
        # a text ends where the document does or another modality begins
        return Grammar(self.tokenizers, ranges, stop=self.tokenizers.begin.values(), only=True)

    def _decoder(self, make: Callable[[], Decoder], to: str | None, guidance: float) -> Decoder:
        decoder = make()
        if guidance == 1 or to is None or self.tokenizers.kind(to) == "continuous":
            return decoder
        bare = TokenSequence.of(self.tokenizers.assemble([], close=False))
        if to != "text":
            bare.append(self.tokenizers.text_id, self.tokenizers.begin[to])
        return GuidedDecoder(decoder, make(), bare, guidance)


def _strings(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise TypeError("give a list of texts, not one string")
    return texts


def split_options(options: dict[str, Any]) -> tuple[Sampling, DiffusionOptions, float]:
    """Options by what they are for.

    Raises:
        TypeError: an option that does not exist.
    """
    if unknown := options.keys() - _SAMPLING - _DIFFUSION:
        raise TypeError(
            f"there are no options {sorted(unknown)}; choose from {sorted(_SAMPLING | _DIFFUSION)}"
        )
    diffusion = DiffusionOptions(**{k: v for k, v in options.items() if k in _DIFFUSION})
    sampling = Sampling(**{k: v for k, v in options.items() if k in _SAMPLING})
    return sampling, diffusion, options.get("guidance", 1.0)
