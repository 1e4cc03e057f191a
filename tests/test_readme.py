"""Every Python example of the README and of docs/ runs as printed, those of a page in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# The worked example of docs/data.md stands on files, which tests/data/test_docs.py makes.
EXAMPLES = {
    page.name: blocks
    for page in PAGES
    if page.name != "data.md"
    and (blocks := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
}


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run_as_printed(page: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(EXAMPLES[page])],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_the_readme_example_is_about_ten_lines() -> None:
    first = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    assert first is not None
    assert len([line for line in first[1].splitlines() if line.strip()]) <= 12
