"""A page of items beside what codecs made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...data.items import LabelledItem
from ...files import write_text
from ...modalities.media import Media
from ..codec_check import CodecCheck
from .html import escape, inline, page, section, table

__all__ = ["check_rows", "write_reconstructions"]

#: Items of a modality that the page shows.
SHOWN = 24


def write_reconstructions(
    path: Path,
    title: str,
    checks: Sequence[CodecCheck],
    items: Mapping[str, Sequence[LabelledItem]],
    media: Mapping[str, Media],
) -> None:
    """Write the page.

    Args:
        checks: of each modality.
        items: by modality, those that were checked, in their order.
        media: of each modality.
    """
    parts = []
    for check in checks:
        cards = _cards(check, items[check.name], media[check.name])
        intro = f"{check.items:,} items, {check.tokens:,} tokens."
        if check.one_way:
            intro += f" Not decoded: {check.one_way}."
        elif len(cards) > SHOWN:
            intro += f" Of the {len(cards):,} that come back changed, {SHOWN} are shown."
        elif len(cards) < check.items:
            intro += f" {check.items - len(cards):,} come back as they were and are not shown."
        cards = cards[:SHOWN]
        figures = table([("figure", "value"), *check_rows(check)])
        parts.append(
            section(
                f"{check.name}: {check.codec}",
                figures,
                f'<div class="samples">{"".join(cards)}</div>' if cards else "",
                intro=intro,
            )
        )
    lead = (
        "Items, and what is left of them after encoding and decoding. Differences are means over "
        "items, with the least and the greatest in parentheses."
    )
    write_text(path, page(title, lead, parts))


def check_rows(check: CodecCheck) -> list[tuple[str, str]]:
    """(figure, value) of a check, as texts; of differences the mean, least and greatest."""
    rows = [("kind", f"{check.kind}, {_size(check)}")]
    for measure, values in check.differences.items():
        mean = sum(values) / len(values)
        what, unit = _named(measure)
        rows.append((what, f"{mean:.3g} ({min(values):.3g} to {max(values):.3g}){unit}"))
    if check.used is not None and check.perplexity is not None:
        used, ids = check.used
        rows.append(("ids in use", f"{used:,} of {ids:,} ({100 * used / ids:.1f} %)"))
        of = f", mean of {check.codebooks} codebooks" if (check.codebooks or 1) > 1 else ""
        rows.append((f"perplexity of the ids{of}", f"{check.perplexity:,.1f}"))
    if check.mean is not None:
        rows.append(
            ("mean and deviation of the vectors", f"{check.mean:.3g}, {check.deviation:.3g}")
        )
    rows.append(("tokens an item", f"{check.tokens / check.items:,.1f}"))
    rows.append(("tokens encoded a second", f"{check.encoded_per_second:,.0f}"))
    if check.decoded_per_second is not None:
        rows.append(("tokens decoded a second", f"{check.decoded_per_second:,.0f}"))
    return rows


def _named(measure: str) -> tuple[str, str]:
    """ "PSNR, dB" -> ("PSNR", " dB")."""
    what, comma, unit = measure.partition(", ")
    return what, f" {unit}" if comma else ""


def _size(check: CodecCheck) -> str:
    return f"vocabulary {check.size:,}" if check.kind == "discrete" else f"vectors of {check.size}"


def _cards(check: CodecCheck, items: Sequence[LabelledItem], media: Media) -> list[str]:
    """Of each item that comes back changed: the item, what came back, how far they are apart."""
    cards = []
    for i, (given, again) in enumerate(zip(items, check.again, strict=check.one_way is None)):
        before, after = media.show(given.item), media.show(again)
        if before == after:
            continue
        cells = "".join(
            f'<div class="cell">{inline(*shown, f"{label}: {given.label}")}{escape(label)}</div>'
            for label, shown in (("file", before), ("again", after))
        )
        figures = ", ".join(
            f"{what} {values[i]:.3g}{unit}"
            for measure, values in check.differences.items()
            for what, unit in [_named(measure)]
        )
        cards.append(
            f'<div class="sample"><blockquote>{escape(given.label)}</blockquote>'
            f'<div class="row pair">{cells}</div><div class="cell">{escape(figures)}</div></div>'
        )
    return cards
