"""What the pages print: their code in order, their links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "anchors", "blocks", "commands", "links", "plain", "spans"]

ROOT = Path(__file__).parents[2]
#: In the order in which a reader meets them: README, then the navigation of the site.
PAGES = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / name
        for name in re.findall(r": (\w+\.md)", (ROOT / "mkdocs.yml").read_text())
    ),
]
_PROGRAMS = re.compile(
    r"(?:\w+=\S+ )*(mom|python|make|pip|uv|mkdocs|source|\.venv/bin/[\w-]+)(?: |$)"
)


@dataclass(frozen=True)
class Block:
    """A piece of code of a page.

    Attributes:
        line: where its text begins, from 1.
        kind: "python" or another language of a fence, "indented", or "span" (inside a sentence).
        text: without fence and indentation.
    """

    line: int
    kind: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Fenced and indented blocks, and what stands between backticks, in their order."""
    lines = text.splitlines()
    i, prose = 0, 0
    while i < len(lines):
        fence = re.match(r"(`{3,})(\w*)", lines[i])
        indented = lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip())
        if not (fence or indented):
            i += 1
            continue
        yield from spans(lines[prose:i], prose + 1)
        start = i + 1 if fence else i
        if fence:
            end = next((k for k in range(start, len(lines)) if lines[k] == fence[1]), None)
            if end is None:
                raise ValueError(f"the fence in line {i + 1} is not closed")
            yield Block(start + 1, fence[2] or "text", "\n".join(lines[start:end]))
            i = prose = end + 1
            continue
        end = start
        while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
            end += 1
        yield Block(
            start + 1, "indented", "\n".join(line[4:] for line in lines[start:end]).rstrip()
        )
        i = prose = end
    yield from spans(lines[prose:], prose + 1)


def spans(lines: list[str], first: int) -> Iterator[Block]:
    """Code inside sentences; it may go on in the next line."""
    text = "\n".join(lines)
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        line = first + text.count("\n", 0, found.start())
        yield Block(line, "span", " ".join(found[1].split()))


def commands(block: Block) -> list[str]:
    """Commands of a block that is not Python, without comments; [] where it holds none.

    A span is a command where it has arguments: `mom train` alone only names one.

    Raises:
        ValueError: some of its lines are commands, and others are not.
    """
    joined = re.sub(r"\\\n\s*", "", block.text)
    lines = [line for line in joined.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    found = [line for line in lines if _PROGRAMS.match(line)]
    if not found:
        return []
    if len(found) < len(lines):
        raise ValueError(f"line {block.line}: a block of commands holds {set(lines) - set(found)}")
    split = [shlex.split(line, comments=True) for line in found]
    if block.kind == "span":
        split = [words for words in split if len(words) > 2 or words[0] == "make"]
    return [shlex.join(words) for words in split if len(words) > 1]


def links(text: str) -> list[str]:
    """Targets of links and pictures; code holds none."""
    return re.findall(r"\]\(([^)\s]+)\)", plain(text))


def anchors(text: str) -> set[str]:
    """Names of the headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#{1,6} (.+)$", _without_blocks(text), re.M)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles
    }


def plain(text: str) -> str:
    """A page without its code."""
    return re.sub(r"`[^`]+`", "", _without_blocks(text))


def _without_blocks(text: str) -> str:
    lines = text.splitlines()
    for block in blocks(text):
        if block.kind != "span":
            for i in range(block.line - 1, block.line - 1 + block.text.count("\n") + 1):
                lines[i] = ""
    return "\n".join(line for line in lines if not line.startswith("```"))
