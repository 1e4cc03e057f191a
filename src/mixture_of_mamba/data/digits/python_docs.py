"""Real text that every Python installation carries: its own documentation, and its source.

`pydoc_data.topics` is the language reference; the docstrings of the standard library describe the
rest; its code and comments are there for who wants more. Sources are parsed, never imported, so
nothing of the library runs.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["python_documentation"]

MOST_CHARACTERS = 2_000_000
SHORTEST = 60
"""Characters below which a docstring says too little to be a document."""
LONGEST = 4_000
"""Characters above which a text is divided, at paragraphs."""

_BLOCKS = ("body", "orelse", "finalbody", "handlers")
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}

_TABLES = ("pydoc_data", "encodings", "_sysconfigdata")  # code that is data


def python_documentation(
    most: int = MOST_CHARACTERS, code: bool = False, report: Callable[[str], None] | None = None
) -> list[tuple[str, str]]:
    """Cleaned texts in a fixed order, together about `most` characters at most.

    Args:
        most: characters at which reading ends.
        code: after topics and docstrings, the code of the standard library with its comments.
        report: called with a line of progress, often.

    Returns:
        (origin, text): the topic or module that a text comes from, so that a split can keep
        everything of one origin together; no text occurs twice.
    """
    texts: list[tuple[str, str]] = []
    seen: set[str] = set()
    total = 0
    for origin, raw in _raw(code):
        if report is not None:
            report(f"read {total:,} characters of real text")
        for part in _divide(raw):
            if len(part) < SHORTEST or part in seen:
                continue
            seen.add(part)
            texts.append((origin, part))
            total += len(part)
            if total >= most:
                return texts
    return texts


def _raw(code: bool) -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data import topics as module

        topics = dict(module.topics)
    except ImportError:  # some distributions package it apart; docstrings remain
        topics = {}
    for name in sorted(topics):
        yield f"topic {name}", _clean(topics[name])
    root = Path(sysconfig.get_path("stdlib"))
    modules = [
        (str(inside), path)
        for path in sorted(root.rglob("*.py"))
        if not _LEFT_OUT.intersection((inside := path.relative_to(root)).parts)
    ]
    for origin, path in modules:
        for node in _docstrings(path):
            yield origin, _clean(inspect.cleandoc(str(node.value)))
    for origin, path in modules if code else ():
        if not origin.startswith(_TABLES):
            yield origin, _code(path)


def _docstrings(path: Path) -> Iterator[ast.Constant]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates of other Python versions
        return
    rest: list[ast.AST] = [tree]
    while rest:  # statements only: expressions hold no docstrings, and are nearly all of a tree
        node = rest.pop(0)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str()) as text), *_]:
                    yield text
        rest.extend(part for block in _BLOCKS for part in getattr(node, block, ()))


def _code(path: Path) -> str:
    """A module without its docstrings."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        return ""
    for node in _docstrings(path):
        for i in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[i] = ""
    text = _without_rules("\n".join(line.rstrip() for line in lines))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _clean(text: str) -> str:
    text = re.sub(r"[^\S\n]+", " ", text.replace("\r", ""))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", _without_rules(text))).strip()


def _without_rules(text: str) -> str:
    return re.sub(r"([*=~^\-_.#])\1{3,}", "", text)  # under headings


def _divide(text: str) -> Iterator[str]:
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) > LONGEST:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    yield part
