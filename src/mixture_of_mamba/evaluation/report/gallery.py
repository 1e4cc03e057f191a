"""Samples in the report: what the data are, and what each variant makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...modalities.image.files import write_image
from ..comparison import Comparison
from .entries import Entry, read_examples, read_samples
from .html import escape, is_image, media, section
from .sheet import captioned_grid

__all__ = ["gallery", "write_gallery"]

#: Characters of a text that a card shows.
LONGEST = 160


def gallery(comparison: Comparison) -> str:
    """Real validation examples, each with what the variants generated for it."""
    real = read_examples(comparison)
    if not real:
        return ""
    samples, outdated = read_samples(comparison)
    cards = [_card(_by_source(entry, i, samples)) for i, entry in enumerate(real)]
    intro = "Held-out examples of the data, as they are."
    if samples:
        intro = (
            "Held-out examples, and what the variants generate: pictures, voices and whatever else "
            "there is from the caption, and captions from each real item. "
            f"Seed {comparison.seeds[0]}, not selected."
        )
    intro += "".join(f" Left out: {why}." for why in outdated)
    return section("Samples", f'<div class="samples">{"".join(cards)}</div>', intro=intro)


def write_gallery(comparison: Comparison) -> Path | None:
    """Write gallery.png: each caption, its real picture, and what the variants drew for it; of
    moving pictures all frames side by side.

    Returns:
        The picture's path; None where there are no pictures.
    """
    samples, _ = read_samples(comparison)
    rows = []
    for i, entry in enumerate(read_examples(comparison)):
        shown = _by_source(entry, i, samples)
        for name in entry.items:
            drawn = {
                source: own.items[name]
                for source, own in shown.items()
                if name in own.items and is_image(own.items[name])
            }
            if len(drawn) > 1:
                rows.append((_short(entry.caption), drawn))
    path = comparison.folder / "gallery.png"
    if not rows:
        path.unlink(missing_ok=True)  # of samples that are no longer there
        return None
    write_image(path, captioned_grid(rows))
    return path


def _by_source(
    entry: Entry, index: int, samples: Mapping[str, Sequence[Entry]]
) -> dict[str, Entry]:
    """An example as it is, and as each variant made it."""
    shown = {"real": entry}
    for variant, entries in samples.items():
        if index < len(entries) and entries[index].caption == entry.caption:
            shown[variant] = entries[index]
    return shown


def _card(shown: Mapping[str, Entry]) -> str:
    """One example: its caption, pictures side by side, other items, and generated captions."""
    caption = shown["real"].caption
    pictures, others, texts = "", "", ""
    for source, own in shown.items():
        for file in own.items.values():
            item = media(file, f"{source}: {caption}")
            if is_image(file):
                pictures += f'<div class="cell">{item}{escape(source)}</div>'
            else:
                others += f'<div class="voice"><span>{escape(source)}</span>{item}</div>'
        for name, text in own.texts.items():
            made = f'<span class="made">{escape(_short(text))}</span>'
            texts += f'<div class="cell">{escape(source)}, from {escape(name)}: {made}</div>'
    row = f'<div class="row">{pictures}</div>' if pictures else ""
    return (
        f'<div class="sample"><blockquote>{escape(_short(caption))}</blockquote>'
        f"{row}{others}{texts}</div>"
    )


def _short(text: str) -> str:
    """As much of a text as a card has room for."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
