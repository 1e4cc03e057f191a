"""`mom tokenizer`: trains what runs can reuse, describes folders, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.build import build
from tests.helpers.tiny_data import tiny_config

TINY = {"scenes": 40, "validation_fraction": 0.2, "text_vocabulary": 384, "image_steps": 3}
OPTIONS = [f"--data.{name}={value}" for name, value in {**TINY, "patch": 8}.items()]


def test_train_writes_tokenizers_that_runs_reuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizers"
    command = ["tokenizer", "train", "--out", str(out), "--data.cache", str(tmp_path), *OPTIONS]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "image: continuous, vectors of 32, 16 an item, autoencoder" in said.out
    assert "mean squared error" in said.err
    assert main(["tokenizer", "inspect", str(out)]) == 0
    assert capsys.readouterr().out == said.out
    bundle = build(tiny_config("transfusion", tokenizers=str(out)), progress=False)
    assert bundle.tokenizers.modalities[1] == ("image", "continuous", 32)
    assert main(command) == 1
    assert "is there already and not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "where to? give: mom tokenizer train --out FOLDER"),
        (["inspect"], "which folder? give: mom tokenizer inspect FOLDER"),
        (["inspect", "/nowhere"], "/nowhere holds no tokenizers"),
        (["train", "--out", "x", "--data.latents", "vae"], "latents is 'vae'; choose from patches"),
        (["train", "--out", "x", "--data.patch", "3"], "patch is 3; choose 2, 4 or 8"),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", *arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
