"""From any modality to any other: prompts of items in, items out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modalities.media import TEXT
from ..models import MultimodalModel
from ..seeding import whole_number
from .choice import decoder_maker
from .decoders import Decoder
from .diffusion import DiffusionSampler, SegmentProgress
from .grammar import Cursor, Grammar
from .guidance import GuidedDecoder
from .loop import Decoding, Event
from .options import MAX_TEXT_TOKENS, MAX_TOKENS, TEXT_TEMPERATURE, GenerationOptions
from .prompts import Prompt, encode_prompts, prompts_of
from .segments import decode_segments, split_segments

if TYPE_CHECKING:
    from ..modalities.documents import Segment
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Generator"]


class Generator:
    """A model and its tokenizers, ready to continue documents.

    Options of all methods that generate are the fields of `Sampling` (temperature, top_k, top_p,
    min_p, repetition_penalty) and, for continuous modalities, of `DiffusionOptions` (sampler,
    steps). `guidance` serves both: how far to move away from what the model would generate without
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

    def to(
        self,
        name: str,
        prompts: Sequence[Prompt],
        *,
        seed: int | Sequence[int] = 0,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """One item of a modality per prompt.

        Args:
            name: of the modality. Text is by default the most likely token at each step.
            prompts, seed, max_tokens, options: see `complete`; items of a fixed length are whole,
                whatever max_tokens is.

        Returns:
            Items as the modality's medium writes them.
        """
        text = self.is_text(name)
        if text:
            options.setdefault("temperature", TEXT_TEMPERATURE)
        length = self.tokenizers.fixed_length.get(name, max_tokens)
        least = len(self.tokenizers.cycle.get(name, ()))
        if length is not None and length < least:
            raise ValueError(
                f"max_tokens is {length}, but {name} takes at least {least}; give more"
            )
        documents = self.complete(prompts, to=name, seed=seed, max_tokens=length, **options)
        items = [segments[0].content for segments in documents]
        return [item.strip() for item in items] if text else items

    def to_image(self, texts: Sequence[str], **options: Any) -> list[np.ndarray]:
        """One (s, s, 3) uint8 picture per caption; see `to`."""
        return self.to("image", prompts_of({"text": texts}), **options)

    def to_speech(self, texts: Sequence[str], **options: Any) -> list[tuple[np.ndarray, int]]:
        """One (waveform float32, samples a second) per text; see `to`."""
        return self.to("speech", prompts_of({"text": texts}), **options)

    def to_text(
        self,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[np.ndarray] | None = None,
        speech: Sequence[tuple[np.ndarray, int]] | None = None,
        **options: Any,
    ) -> list[str]:
        """One text per prompt; see `to`. A prompt is a text, an image and an utterance, as many of
        them as are given, in this order."""
        given: dict[str, Any] = {"text": texts, "image": images, "speech": speech}
        columns = {name: column for name, column in given.items() if column is not None}
        if not columns:
            raise ValueError("give images=, speech= or texts= to generate text from")
        return self.to("text", prompts_of(columns), **options)

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
            prompts: segments (modality, item) of each document so far.
            to: generate one segment of this modality. None: whatever the model goes on with, until
                it ends the document.
            seed: of the first prompt; prompt i has seed + i, and its result depends on nothing
                else, whatever is generated beside it. Or one seed per prompt.
            max_tokens: most new tokens of a document. None: the length of `to` where its segments
                have one length or a greatest one, else 100 (MAX_TEXT_TOKENS) for text and 400
                (MAX_TOKENS) for the rest.
            options: see the class.

        Returns:
            The new segments of each document, decoded. A segment of fixed length that max_tokens
            cut short is omitted.

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
        tokenizers = self.tokenizers
        modality = tokenizers.text_id if to is None else tokenizers.index(to)
        if to in tokenizers.one_way:
            raise ValueError(f"no {to} can be generated: {tokenizers.one_way[to]}")
        kinds = set(tokenizers.kinds) if to is None else {tokenizers.kinds[modality]}
        sequences = encode_prompts(tokenizers, prompts, to=to)
        if isinstance(seed, Sequence):
            seeds = [whole_number(s) for s in seed]
        else:
            seeds = [whole_number(seed) + i for i in range(len(prompts))]
        parsed = GenerationOptions.parse(options)
        grammar = self._grammar(to)
        if max_tokens is None:
            max_tokens = self._max_tokens(to)
        make = decoder_maker(self.model, self.weights)
        with ExitStack() as stack:
            sampler = None
            if "continuous" in kinds:
                bar = stack.enter_context(SegmentProgress(None if to is None else len(sequences)))
                sampler = DiffusionSampler(tokenizers.begin, parsed.diffusion, progress=bar.advance)
            for start in range(0, len(sequences), self.batch_size):
                here = slice(start, start + self.batch_size)
                part = sequences[here]
                decoder = make()
                if parsed.guidance != 1 and to is not None and kinds == {"discrete"}:
                    decoder = self._guided(decoder, make(), to, parsed.guidance)
                events = Decoding(
                    decoder,
                    part,
                    [Cursor(modality)] * len(part),
                    grammar,
                    parsed.sampling,
                    seeds=seeds[here],
                    max_tokens=max_tokens,
                    sampler=sampler,
                )
                for event in events:
                    yield event._replace(row=start + event.row)

    def is_text(self, name: str) -> bool:
        """Whether items of a modality are strings.

        Raises:
            ValueError: there is no such modality.
        """
        return self.tokenizers.codec(name).media is TEXT

    def _max_tokens(self, to: str | None) -> int:
        if to is None:
            return MAX_TOKENS
        most = MAX_TEXT_TOKENS if self.is_text(to) else MAX_TOKENS
        return self.tokenizers.max_length.get(to, most)

    def _grammar(self, to: str | None) -> Grammar:
        ranges = self.model.config.vocabulary_ranges
        if to is None:
            may_open = self.tokenizers.begin.keys() - self.tokenizers.one_way.keys()
            return Grammar(self.tokenizers, ranges, may_open=may_open)
        # a text ends where the document does or another modality begins
        return Grammar(self.tokenizers, ranges, stop=self.tokenizers.begin.values(), only=True)

    def _guided(self, decoder: Decoder, other: Decoder, to: str, guidance: float) -> Decoder:
        """Guidance away from what would follow an empty context."""
        (bare,) = encode_prompts(self.tokenizers, [()], to=to)
        return GuidedDecoder(decoder, other, bare, guidance)
