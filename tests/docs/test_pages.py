"""What the pages name exists: links, headings, public names, commands, flags, fields, targets."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS

import mixture_of_mamba as mom
from mixture_of_mamba.cli.main import COMMANDS
from mixture_of_mamba.cli.parser import Parser
from mixture_of_mamba.training.config import SECTIONS
from tests.docs.pages import PAGES, ROOT, anchors, blocks, commands, links

SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))
WITH_LINKS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "gpu" / "README.md"]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code(page: Path) -> Iterator[str]:
    """Everything of a page that stands as code and is no Python."""
    yield from (block.text for block in blocks(page.read_text()) if block.kind != "python")


@cache
def flags_of(command: str) -> frozenset[str]:
    """Flags of a sub-command of mom."""
    parser = Parser(prog=f"mom {command}")
    import_module(f"mixture_of_mamba.cli.{command}").configure(parser)
    if parser.fields is not None:
        parser.fields()
    return frozenset(flag for action in parser._actions for flag in action.option_strings)


def flags_of_script(file: Path) -> frozenset[str]:
    """Flags that a script's source adds."""
    return frozenset(re.findall(r'add_argument\(\s*"(--[\w-]+)"', file.read_text()))


def flags_in(words: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-zA-Z][\w.-]*", words))


def has(flags: frozenset[str], flag: str) -> bool:
    """Whether a flag is one, or an entry of one that is a mapping."""
    flag = re.sub(r"^--modalities\.\w+$", "--modalities.NAME.codec", flag)
    flag = re.sub(r"^--modalities\.\w+\.", "--modalities.NAME.", flag)
    return flag in flags or (flag.count(".") > 1 and flag.rpartition(".")[0] in flags)


@pytest.mark.parametrize("page", WITH_LINKS, ids=named)
def test_every_link_resolves(page: Path) -> None:
    for target in links(page.read_text()):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{target}: there is no such heading"


def test_every_page_is_in_the_navigation() -> None:
    assert {p.name for p in PAGES[1:]} == {p.name for p in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("name", mom.__all__)
def test_every_public_name_is_on_a_page(name: str) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert re.search(rf"(?<!\w){name}(?!\w)", text)
    assert f"`{name}`" in (ROOT / "docs" / "names.md").read_text(), "the table of names lacks it"


def test_the_table_of_names_has_no_others() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "names.md").read_text(), re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(
        mom.__all__
    )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_and_flag_exists(page: Path) -> None:
    for block in blocks(page.read_text()):
        for command in [] if block.kind == "python" else commands(block):
            first, *words = re.sub(r"^(\w+=\S+ )+", "", command).split()
            if first == "mom":
                unknown = {f for f in flags_in(command) if not has(flags_of(words[0]), f)}
                assert not unknown - {"--help"}, f"mom {words[0]} has no {unknown}"
            elif first == "python":
                if words[:2] == ["-m", "benchmarks"]:
                    spec = find_spec(BENCHMARKS[words[2]][0])
                    assert spec is not None and spec.origin is not None
                    assert flags_in(command) <= flags_of_script(Path(spec.origin)), command
                elif words[0] == "-m":
                    assert find_spec(words[1]), f"there is no module {words[1]}"
                else:
                    assert flags_in(command) <= flags_of_script(ROOT / words[0]), command
    everywhere = frozenset().union(*map(flags_of, COMMANDS), *map(flags_of_script, SCRIPTS))
    for text in code(page):
        if found := re.match(r"mom (\w+)", text):
            assert found[1] in COMMANDS, f"there is no command {text!r}"
        if re.match(r"--", text):
            unknown = {f for f in flags_in(text) if not has(everywhere, f)}
            assert not unknown, f"no command has {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_field_exists(page: Path) -> None:
    """`data.patch`, `train.steps`: a field of a run's config, or a module of that room."""
    valid = {part: {field.name for field in fields(kind)} for part, kind in SECTIONS.items()}
    for text in code(page):
        if found := re.fullmatch(r"(data|train)\.(?!json)(\w+)", text):
            part, name = found.groups()
            module = part == "data" and find_spec(f"mixture_of_mamba.{text}")
            assert name in valid[part] or module, f"{text} is no field"


def test_every_target_has_a_rule() -> None:
    rules = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    for page in [*WITH_LINKS, ROOT / "CHANGELOG.md"]:
        printed = {t for text in code(page) for t in re.findall(r"(?:^|[;&\s])make ([\w-]+)", text)}
        assert printed <= rules, f"{page.name}: {printed - rules}"
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony is not None and set(phony[1].split()) <= rules


def test_the_readme_example_is_about_ten_lines() -> None:
    first = next(b for b in blocks((ROOT / "README.md").read_text()) if b.kind == "python")
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 12


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "names" / "index.html").is_file()
