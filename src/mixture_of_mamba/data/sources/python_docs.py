"""Real English text that every Python installation carries: its own documentation.

`pydoc_data.topics` is the language reference; the docstrings of the standard library describe the
rest. Sources are parsed, never imported, so nothing of the library runs.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["python_documentation"]

MOST_CHARACTERS = 2_000_000
SHORTEST = 60
"""Characters below which a docstring says too little to be a document."""
LONGEST = 4_000
"""Characters above which a text is divided, at paragraphs."""

_BLOCKS = ("body", "orelse", "finalbody", "handlers")
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}


def python_documentation(most: int = MOST_CHARACTERS) -> list[tuple[str, str]]:
    """Cleaned texts in a fixed order, together about `most` characters at most.

    Returns:
        (origin, text): the topic or module that a text comes from, so that a split can keep
        everything of one origin together; no text occurs twice.
    """
    texts: list[tuple[str, str]] = []
    seen: set[str] = set()
    total = 0
    for origin, raw in _raw():
        for part in _divide(_clean(raw)):
            if len(part) < SHORTEST or part in seen:
                continue
            seen.add(part)
            texts.append((origin, part))
            total += len(part)
            if total >= most:
                return texts
    return texts


def _raw() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data import topics as module

        topics = dict(module.topics)
    except ImportError:  # some distributions package it apart; docstrings remain
        topics = {}
    for name in sorted(topics):
        yield f"topic {name}", topics[name]
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not _LEFT_OUT.intersection(inside.parts):
            for text in _docstrings(path):
                yield str(inside), text


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates of other Python versions
        return
    rest: list[ast.AST] = [tree]
    while rest:  # statements only: expressions hold no docstrings, and are nearly all of a tree
        node = rest.pop(0)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)
        rest.extend(part for block in _BLOCKS for part in getattr(node, block, ()))


def _clean(text: str) -> str:
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r", ""))
    text = re.sub(r"([*=~^\-_.#])\1{3,}", "", text)  # rules under headings
    text = re.sub(r" *\n *", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _divide(text: str) -> Iterator[str]:
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) > LONGEST:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    yield part
