"""`python -m benchmarks NAME`: every name starts a module, and a wrong one lists them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_is_a_module_with_a_main(name: str) -> None:
    spec = find_spec(BENCHMARKS[name][0])
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text()
    assert "def main(argv: list[str] | None = None)" in source
    assert f'prog="python -m benchmarks {name}"' in source


def test_a_wrong_name_lists_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 2
    said = capsys.readouterr().err
    assert "there is no benchmark 'gpus'" in said
    assert all(name in said for name in BENCHMARKS)
    assert main(["--help"]) == 0


def test_options_go_to_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cpu", "--help"])
    assert "--quick" in capsys.readouterr().out


def test_the_process_that_starts_the_gpu_sections_does_not_load_torch() -> None:
    code = "import sys, benchmarks.gpu.run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
