"""Pictures, sound and text: what the data are, and what each variant makes of the captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...modalities.image.files import write_image
from ..artefacts import read_artefact, read_made
from ..comparison import Comparison
from .html import audio, escape, image, section
from .sheet import captioned_grid

__all__ = ["gallery", "write_gallery"]

LONGEST = 160
"""Characters of a text that a card shows."""


def gallery(comparison: Comparison) -> str:
    """Real validation examples, each with what the variants generated for it."""
    folder = comparison.folder / "examples"
    real = _examples(folder)
    if not real:
        return ""
    made = _generated(comparison)
    cards = [
        _card(entry["caption"], _shown(entry, i, folder, made)) for i, entry in enumerate(real)
    ]
    intro = "Held-out examples of the data, as they are."
    if made:
        intro = (
            "Held-out examples, and what the variants generate: pictures and voices from the "
            "caption, and captions from the real picture or voice. "
            f"Seed {comparison.seeds[0]}, not selected."
        )
    intro += "".join(f" Left out: {why}." for why in _left_out(comparison))
    return section("Samples", f'<div class="samples">{"".join(cards)}</div>', intro=intro)


def write_gallery(comparison: Comparison) -> Path | None:
    """Write gallery.png: each caption, its real picture, and what the variants drew for it.

    Returns:
        The picture's path; None where there are no pictures.
    """
    folder = comparison.folder / "examples"
    made = _generated(comparison)
    rows = []
    for i, entry in enumerate(_examples(folder)):
        shown = _shown(entry, i, folder, made).items()
        drawn = {name: place / own["image"] for name, (place, own) in shown if own.get("image")}
        if len(drawn) > 1:
            rows.append((_short(entry["caption"]), drawn))
    path = comparison.folder / "gallery.png"
    if not rows:
        path.unlink(missing_ok=True)  # of samples that are no longer there
        return None
    write_image(path, captioned_grid(rows))
    return path


def _examples(folder: Path) -> list[dict[str, Any]]:
    """The real examples, or none where they were not saved."""
    return read_artefact(folder / "examples.json", list) or []


def _shown(
    entry: dict[str, Any],
    index: int,
    folder: Path,
    made: Mapping[str, tuple[Path, list[dict[str, Any]]]],
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Of one example: the folder and entry of what is real, and of what each variant made."""
    shown = {"real": (folder, entry)}
    for variant, (place, entries) in made.items():
        if index < len(entries) and entries[index]["caption"] == entry["caption"]:
            shown[variant] = (place, entries[index])
    return shown


def _generated(comparison: Comparison) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """By variant: folder and entries of the samples, in the order of the examples."""
    found = {}
    for variant in comparison.plan.variants:
        run = comparison.run_folder(variant, comparison.seeds[0])
        made, _ = read_made(run / "samples" / "samples.json", run)
        if made is not None:
            found[variant] = (run / "samples", made["samples"])
    return found


def _left_out(comparison: Comparison) -> list[str]:
    """Samples that are not of the runs' present models."""
    runs = [comparison.run_folder(v, comparison.seeds[0]) for v in comparison.plan.variants]
    read = [(run.name, read_made(run / "samples" / "samples.json", run)[1]) for run in runs]
    return [f"{name}: {why}" for name, why in read if why]


def _card(caption: str, shown: Mapping[str, tuple[Path, dict[str, Any]]]) -> str:
    """One example: its caption, pictures side by side, voices, and generated captions."""
    pictures = "".join(
        f'<div class="cell">{image(place / own["image"], f"{name}: {caption}")}{escape(name)}</div>'
        for name, (place, own) in shown.items()
        if own.get("image")
    )
    voices = "".join(
        f'<div class="voice"><span>{escape(name)}</span>'
        f"{audio(place / own['audio'], f'{name}: {caption}')}</div>"
        for name, (place, own) in shown.items()
        if own.get("audio")
    )
    said = "".join(
        f'<div class="cell">{escape(name)} {verb}: '
        f'<span class="made">{escape(_short(own[key]))}</span></div>'
        for name, (_, own) in shown.items()
        for key, verb in (("from_image", "sees"), ("from_audio", "hears"))
        if own.get(key)
    )
    row = f'<div class="row">{pictures}</div>' if pictures else ""
    return (
        f'<div class="sample"><blockquote>{escape(_short(caption))}</blockquote>'
        f"{row}{voices}{said}</div>"
    )


def _short(text: str) -> str:
    """As much of a text as a card has room for."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
