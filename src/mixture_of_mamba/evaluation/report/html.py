"""Small pieces of HTML; every text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

__all__ = [
    "card",
    "escape",
    "figure",
    "inline",
    "is_image",
    "media",
    "page",
    "section",
    "table",
]

#: Suffix -> MIME type of files that a browser shows.
_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}


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


def page(title: str, lead: str, parts: Sequence[str]) -> str:
    """A whole page in the style of the reports."""
    css = (resources.files("mixture_of_mamba.evaluation") / "templates" / "report.css").read_text()
    made = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n<p class='lead'>{escape(lead)}</p>\n"
        f"{''.join(parts)}</main>\n</body>\n</html>\n"
    )
    return made.replace(" %", "\N{NO-BREAK SPACE}%")


def is_image(path: Path) -> bool:
    """Whether a file is shown as a picture; moving ones are."""
    return _TYPES.get(path.suffix, "").startswith("image/")


def media(path: Path, label: str) -> str:
    """A file, inline: a picture, a player of sound or video, or text."""
    return inline(path.suffix, path.read_bytes(), label)


def inline(suffix: str, content: bytes, label: str) -> str:
    """The same of a file's content."""
    kind = _TYPES.get(suffix)
    if kind is None:
        return f"<pre>{escape(content.decode('utf-8', 'replace'))}</pre>"
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    said = escape(label, quote=True)
    if kind.startswith("image/"):
        return f'<img src="{source}" alt="{said}">'
    player = kind.partition("/")[0]  # audio or video
    return f'<{player} controls preload="metadata" aria-label="{said}" src="{source}"></{player}>'
