"""Small pieces of HTML; every text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

__all__ = ["audio", "card", "escape", "figure", "image", "section", "table"]


def section(title: str, *parts: str, intro: str = "") -> str:
    """A titled part of the page; nothing where it has no content."""
    content = "".join(parts)
    if not content:
        return ""
    lead = f'<p class="intro">{escape(intro)}</p>' if intro else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{content}</section>\n"


def table(rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """A table that scrolls inside its own frame; the first row is the header, the first column
    names the others."""
    head, *body = rows
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{named}<thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def card(label: str, value: str, note: str, kind: str = "") -> str:
    """One figure that is to be seen first."""
    return (
        f'<div class="card {kind}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def figure(svg: str, caption: str) -> str:
    """A drawing with a text alternative."""
    return (
        f'<figure class="chart" role="img" aria-label="{escape(caption, quote=True)}">{svg}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def image(path: Path, alt: str) -> str:
    """A PNG file, inline."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'


def audio(path: Path, label: str) -> str:
    """A WAV file, inline and playable."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<audio controls preload="metadata" aria-label="{escape(label, quote=True)}" '
        f'src="data:audio/wav;base64,{data}"></audio>'
    )
