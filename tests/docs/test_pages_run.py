"""Every command and Python block of README and docs/ does what it says, in the order printed.

All pages share one folder, as a reader has one. `SMALLER` has what is added to a command to make it
small. What cannot be run here is in `EXCLUDED` with the reason, or has another in its place, in
`INSTEAD`. A command that two pages print is run once: it names the same thing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mixture_of_mamba.training.config import RunConfig
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands

#: The same data for all runs of a setting, so that it is prepared once.
DIGITS = "--data.digits.scenes 60 --data.digits.text_fraction 0.2"
DATA = f"{DIGITS} --data.image_steps 5"  # the old name counts only where images have such steps
TRAIN = "--train.steps 6 --train.warmup 2 --train.batch_size 4 --train.evaluate_batches 1"
STUDY = "--seeds 0 --jobs 2"
#: Beginning of a command -> what is added; the longest that fits counts.
SMALLER = {
    "mom train": f"{DATA} {TRAIN}",
    "mom train -c chameleon --data.digits.scenes 2000 --modalities.image.steps 200": f"{DIGITS} "
    f"--modalities.image.steps 5 {TRAIN}",
    "mom compare": f"{DATA} {TRAIN} {STUDY} --samples 1 --judged 4",
    "mom compare -c chameleon_video": f"{DATA} --modalities.video.image.steps 5 {TRAIN} {STUDY} "
    "--samples 1 --judged 4",
    "mom ablate": f"{DATA} {TRAIN} {STUDY}",
    "mom tokenizer train": DATA,
    "python -m benchmarks busy": "--rounds 2 --seconds 0.02",
    "python -m benchmarks cpu": "--quick --only convolution",
    "python -m benchmarks decode": "--sizes 64x2 --batches 1 --prefill 32 --rounds 2 --least 0.01",
    "python -m benchmarks images": "--width 32 --layers 2 --steps 2 --rounds 2",
}
#: Beginning of a command -> what is run in its place.
INSTEAD: dict[str, str] = {
    "make demo": f"mom compare -c demo --out runs/demo --variants dense mom {DATA} {TRAIN} {STUDY} "
    "--samples 0 --judged 0",
    "python -m benchmarks compare OLD.json NEW.json": "python -m benchmarks compare "
    "benchmarks/results/cpu.json benchmarks/results/cpu.json",
}
#: Beginning of a command -> why it is not run.
EXCLUDED = {
    "make test": "runs these tests",
    "make lock": "asks the package index for every package, and rewrites the lock",
    "make test-newest": "runs tests in an environment that it installs",
    "pip install": "installs into the environment that runs the tests",
    "mom bench": "python -m benchmarks cpu, whole; tests/cli/test_bench.py has the command",
    "source .venv/bin/activate": "there is no .venv in the folder of this test",
    "python -m benchmarks gpu": "needs a GPU",
}
#: (page, beginning of a block) -> what it is, where it is no code.
TEXT = {
    ("design.md", "files / embedded scenes"): "a drawing",
    ("design.md", "modalities:"): "a part of a config",
    ("data.md", "modalities:"): "a part of a config",
    ("design.md", "ops/dispatch.py"): "a list of files",
    ("design.md", "generation/grammar.py"): "a list of files",
    (
        "data.md",
        "tones/documents.jsonl:7: image",
    ): "an error, as tests/data/test_user_data.py has it",
    ("data.md", "<document> a red three"): "a drawing",
    ("data.md", "modalities:\n  text:  {codec: bpe}"): "a part of a config",
    ("comparison.md", "relative FLOPs to match ="): "a formula",
}
#: Page -> what holds when its blocks have run.
AFTERWARDS = {
    "data.md": """
assert data.train.tokens_by_modality()["image"] == 38 * 65
assert Path("tone3_again.png").stat().st_size > 100
assert Path("tone3_again.wav").stat().st_size > 16_000
""",
}


def longest(table: dict[str, str], command: str) -> str | None:
    """The longest beginning in a table that a command has."""
    program = re.sub(r"^(\w+=\S+ )+", "", command)
    found = [key for key in table if f"{program} ".startswith(f"{key} ")]
    return max(found, key=len, default=None)


def runnable(command: str) -> str | None:
    """The command to run for a printed one; None where there is none.

    Raises:
        ValueError: it is neither mom nor Python, and no table says what to do.
    """
    if longest(EXCLUDED, command) is not None:
        return None
    if (key := longest(INSTEAD, command)) is not None:
        return INSTEAD[key]
    if not re.match(r"(\w+=\S+ )*(mom|python) ", command):
        raise ValueError(f"{command!r} stands in no table: is it run, and how?")
    key = longest(SMALLER, command)
    return f"{command} {SMALLER[key]}".strip() if key is not None else command


def steps(page: Path) -> list[dict[str, object]]:
    """What a page asks to be done, in its order.

    Raises:
        ValueError: a block that is neither code nor known to be none.
    """
    found: list[dict[str, object]] = []
    for block in blocks(page.read_text()):
        if block.kind == "python":
            found.append({"kind": "python", "line": block.line, "text": block.text})
        elif block.kind == "json":
            json.loads(block.text)
        elif block.kind == "yaml":
            RunConfig.from_dict(yaml.safe_load(block.text))
        elif printed := commands(block):
            for command in printed:
                if run := runnable(command):
                    found.append({"kind": "shell", "line": block.line, "text": run})
        elif block.kind != "span" and not _is_text(page, block):
            raise ValueError(f"{page.name}:{block.line}: what kind of block is this?")
    if page.name in AFTERWARDS:
        found.append({"kind": "python", "line": 1, "text": AFTERWARDS[page.name]})
    return found


def _is_text(page: Path, block: Block) -> bool:
    return any(page.name == name and block.text.startswith(text) for name, text in TEXT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_known_to_be_no_code(page: Path) -> None:
    assert steps(page) or "```" not in page.read_text()


def test_the_tables_hold_nothing_that_no_page_prints() -> None:
    everything = [(page, block) for page in PAGES for block in blocks(page.read_text())]
    printed = [c for _, block in everything if block.kind != "python" for c in commands(block)]
    for table in (SMALLER, INSTEAD, EXCLUDED):
        used = {longest(table, command) for command in printed}
        assert used >= set(table), f"never printed: {set(table) - used}"
    for name, text in TEXT:
        assert any(p.name == name and b.text.startswith(text) for p, b in everything), text


class Reader:
    """Goes through the pages in one folder; each page once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said, self.done = folder, {}, set[str]()  # type: ignore[var-annotated]
        (folder / "bin").mkdir()
        for name, what in {
            "mom": "-m mixture_of_mamba",
            "python": "",
        }.items():
            path = folder / "bin" / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n')
            path.chmod(0o755)
        self.work = folder / "work"
        for name in ("configs", "benchmarks", "docs"):  # a checkout, which commands write into
            shutil.copytree(ROOT / name, self.work / name)

    def read(self, page: Path) -> tuple[int, str]:
        """Exit code and words of a page, after those before it."""
        for one in PAGES[: PAGES.index(page) + 1]:
            if one not in self.said:
                self.said[one] = self._walk(one)
        return self.said[page]

    def _walk(self, page: Path) -> tuple[int, str]:
        todo = []
        for step in steps(page):
            if step["kind"] == "python" or step["text"] not in self.done:
                todo.append(step)
                self.done.add(str(step["text"]))
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        source = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("session.py")), page.name],
            input=json.dumps(todo),
            cwd=self.work,
            env=os.environ
            | {"PATH": path, "PYTHONPATH": source, "MOM_CACHE": str(self.folder / "cache")}
            | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[int, str]]:
    return Reader(tmp_path_factory.mktemp("reader")).read


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.xdist_group("pages")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page: Path, reader: Callable[[Path], tuple[int, str]]) -> None:
    code, said = reader(page)
    print(said)
    assert code == 0, said
