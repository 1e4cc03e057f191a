"""Help, reports and configs need no torch: importing it takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mixture_of_mamba.cli.main import COMMANDS

#: Packages that take long to import.
HEAVY = {"torch", "transformers", "diffusers", "lightning", "sklearn", "matplotlib", "tokenizers"}


def heavy_after(code: str) -> set[str]:
    """The heavy packages that a new process has imported after running the code."""
    told = f"{code}\nimport sys\nprint('imported', *({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str) -> None:
    code = f"from mixture_of_mamba.cli.main import main\nassert main(['{command}', '--help']) == 0"
    assert heavy_after(code) == set()


@pytest.mark.parametrize(
    "name",
    ["training.config", "training.runs", "data.config", "models.config", "evaluation.rebuild"],
)
def test_modules_that_only_read_and_check(name: str) -> None:
    assert heavy_after(f"import mixture_of_mamba.{name}") == set()


def test_a_config_is_made_and_checked() -> None:
    code = (
        "import mixture_of_mamba as mom\n"
        "mom.RunConfig.from_dict({'train': {'steps': 5}})\n"
        "mom.ModelConfig(d_model=8, n_layers=1, "
        "modalities=[mom.Modality('a', 'discrete', 4), mom.Modality('b', 'continuous', 4)])"
    )
    assert heavy_after(code) == set()
