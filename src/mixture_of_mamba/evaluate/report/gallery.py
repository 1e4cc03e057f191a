"""Pictures, sound and text: what the data are, and what each variant makes of the captions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..comparison import Comparison
from .html import audio, escape, image, section

__all__ = ["gallery"]


def gallery(comparison: Comparison) -> str:
    """Real validation examples, each with what the variants generated for it."""
    folder = comparison.folder / "examples"
    if not (folder / "examples.json").is_file():
        return ""
    real = json.loads((folder / "examples.json").read_text())
    made = _generated(comparison)
    cards = [_card(entry, i, folder, made) for i, entry in enumerate(real)]
    intro = "Held-out examples of the data: caption, picture and voice as they are."
    if made:
        intro = (
            "Held-out captions, the real picture and voice, and what the variants generate for "
            f"them: picture and voice from the caption, and a caption from the real picture or "
            f"voice. Seed {comparison.seeds[0]}, not selected."
        )
    return section("Samples", f'<div class="samples">{"".join(cards)}</div>', intro=intro)


def _generated(comparison: Comparison) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """By variant: folder and entries of the samples, in the order of the examples."""
    found = {}
    for variant in comparison.plan.variants:
        folder = comparison.run_folder(variant, comparison.seeds[0]) / "samples"
        if (folder / "samples.json").is_file():
            found[variant] = (folder, json.loads((folder / "samples.json").read_text()))
    return found


def _card(
    entry: Mapping[str, Any],
    index: int,
    folder: Path,
    made: Mapping[str, tuple[Path, list[dict[str, Any]]]],
) -> str:
    cells = [_media("real", entry, folder, entry["caption"])]
    captions = []
    for variant, (place, entries) in made.items():
        if index < len(entries) and entries[index]["caption"] == entry["caption"]:
            own = entries[index]
            cells.append(_media(variant, own, place, f"{variant}: {entry['caption']}"))
            for key, source in (("from_image", "sees"), ("from_audio", "hears")):
                if own.get(key):
                    captions.append(
                        f'<div class="cell">{escape(variant)} {source}: '
                        f'<span class="made">{escape(own[key])}</span></div>'
                    )
    return (
        f'<div class="sample"><blockquote>{escape(entry["caption"])}</blockquote>'
        f'<div class="row">{"".join(cells)}</div>{"".join(captions)}</div>'
    )


def _media(label: str, entry: Mapping[str, Any], folder: Path, alt: str) -> str:
    parts = []
    if entry.get("image"):
        parts.append(image(folder / entry["image"], alt))
    if entry.get("audio"):
        parts.append(audio(folder / entry["audio"], alt))
    if not parts:
        return ""
    return f'<div class="cell">{"".join(parts)}{escape(label)}</div>'
