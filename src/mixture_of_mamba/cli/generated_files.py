"""What `mom generate` prints and writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..generation import Event, Generator
    from ..generation.prompts import Prompt
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["continue_documents", "stream_text", "write_samples"]


def write_samples(
    tokenizers: TokenizerSet, name: str, samples: Sequence[Any], out: str | None
) -> None:
    """One modality's samples to the file that --out names; text without --out is printed."""
    from ..modalities.media import TEXT

    media = tokenizers.codec(name).media
    if media is TEXT and out is None:
        print("\n".join(samples))
        return
    paths = media.write_all(out or f"generated{media.suffixes[0]}", samples)
    print("wrote " + ", ".join(map(str, paths)), file=sys.stderr)


def stream_text(generator: Generator, prompt: Prompt, *, to: str, **options: Any) -> None:
    """Print one text while it is sampled."""
    from ..generation.segments import is_content

    tokenizers, ids, shown = generator.tokenizers, [], 0
    for name, token in generator.stream(prompt, to=to, **options):
        ids += [token] if is_content(tokenizers, name, token) else []
        text = tokenizers.decode(to, ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may span two tokens
            print(text[shown:], end="", flush=True)
            shown = len(text)
    print()


def continue_documents(
    generator: Generator, prompts: Sequence[Prompt], out: Path, **options: Any
) -> None:
    """Documents that the model goes on with; says which of them hold nothing, or end too soon."""
    from ..generation.segments import truncated

    if out.suffix or out.is_file():
        raise ValueError(f"--out {out} is a file; without --to, give a folder")
    events: list[list[Event]] = [[] for _ in prompts]
    for event in generator.events(prompts, **options):
        events[event.row].append(event)
    documents = generator.decode_segments(events)
    _write_documents(generator.tokenizers, documents, out)
    for i, (document, made) in enumerate(zip(documents, events, strict=True)):
        if broken := truncated(generator.tokenizers, made):
            name, length, needed = broken
            parts = f"{length} of its {needed} tokens" if needed else "nothing yet"
            print(
                f"sample {i}: the document was cut after {len(made)} new tokens; its last {name} "
                f"holds {parts} and is left out; give more --max_tokens",
                file=sys.stderr,
            )
        elif not document:
            print(
                f"sample {i}: the model ended the document at once, with nothing in it; say with "
                "--to what to generate, or give another --seed",
                file=sys.stderr,
            )


def _write_documents(tokenizers: TokenizerSet, documents: Sequence[Any], out: Path) -> None:
    """Interleaved documents: text to standard output, everything else into a folder."""
    from ..modalities.media import TEXT

    for i, document in enumerate(documents):
        if len(documents) > 1:
            print(f"--- {i}")
        for j, (name, item) in enumerate(document):
            media = tokenizers.codec(name).media
            if media is TEXT:
                print(item.strip())
                continue
            path = out / f"{i}-{j}-{name}{media.suffixes[0]}"
            media.write(path, item)
            print(f"[{path}]")
