"""Runs that start from a pretrained model, with its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.cli.main import main
from mixture_of_mamba.interop import load_dense, start_from
from mixture_of_mamba.modalities.text import TextTokenizer
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.loop import train
from mixture_of_mamba.training.runs import load_run
from tests.factories.data import tiny_config

SETTINGS = {"d_model": 32, "n_layers": 2, "d_state": 4, "tie_embeddings": True}
WORDS = "A picture with a red seven on the left and a green three below. "


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense Mamba as transformers saves it, its vocabulary padded, with its tokenizer."""
    from transformers import MambaConfig, MambaForCausalLM

    folder = tmp_path_factory.mktemp("dense")
    tokenizer = TextTokenizer.train([WORDS * 20], 300)
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=-(-tokenizer.size // 8) * 8 + 8,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        initializer_range=0.2,
    )
    MambaForCausalLM(config).save_pretrained(folder)
    return folder


def logits(model: MultimodalModel, tokens: torch.Tensor, count: int) -> torch.Tensor:
    batch = Batch(tokens=tokens, modality_ids=torch.zeros_like(tokens))
    with torch.no_grad():
        found = model.eval()(batch, return_logits=True).logits
    assert found is not None
    return found[..., :count]


def wanted(text: int, **changes: Any) -> ModelConfig:
    modalities = [Modality("text", "discrete", text), Modality("image", "continuous", 6)]
    return ModelConfig(**{**SETTINGS, "modalities": modalities, **changes})


def test_text_is_what_the_dense_model_says(checkpoint: Path) -> None:
    dense = load_dense(checkpoint)
    size = dense.config.modalities[0].size
    config = wanted(size + 4, diffusion={"prediction": "v"})
    model = start_from(checkpoint, config)
    assert model.config == config
    tokens = torch.randint(size, (2, 17))
    torch.testing.assert_close(logits(model, tokens, size), logits(dense, tokens, size))


def test_other_shapes_say_which_flags_to_give(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"give --model\.d_model 32 --model\.tie_embeddings true"):
        start_from(checkpoint, wanted(400, d_model=64, tie_embeddings=False))
    with pytest.raises(ValueError, match="has d_conv, dt_rank that a run's settings"):
        start_from(checkpoint, wanted(400, d_conv=3, dt_rank=5))


def test_padding_keeps_its_ids(checkpoint: Path) -> None:
    size = load_dense(checkpoint).config.modalities[0].size
    with pytest.raises(ValueError, match=f"give --modalities.text.vocabulary {size + 4}"):
        start_from(checkpoint, wanted(size))


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> RunConfig:
    vocabulary = load_dense(checkpoint).config.modalities[0].size + 3  # document, its end, image
    text = {"tokenizer": str(checkpoint), "vocabulary": vocabulary}
    tiny = tiny_config("chameleon", text=text, digits={"text_fraction": 0.0})
    settings = {"init_from": str(checkpoint), **SETTINGS}
    quiet = {"samples": 0, "tensorboard": False, "progress": False, "device": "cpu"}
    plain = {"steps": 2, "batch_size": 2, "warmup": 0, "learning_rate": 0.0, "evaluate_batches": 1}
    run = RunConfig.from_dict({"model": settings, "train": {**plain, **quiet}})
    return replace(run, modalities=tiny.modalities, data=tiny.data)


def test_a_run_begins_with_the_weights_and_the_tokenizer(
    checkpoint: Path, config: RunConfig, tmp_path: Path
) -> None:
    assert train(config, tmp_path / "run").finished
    run, dense = load_run(tmp_path / "run"), load_dense(checkpoint)
    ids = torch.tensor(run.tokenizers.encode("text", WORDS))[None]
    assert run.tokenizers.decode("text", ids[0].numpy()) == WORDS
    size = dense.config.modalities[0].size
    assert run.tokenizers.document[0] == size
    torch.testing.assert_close(logits(run.model, ids, size), logits(dense, ids, size))
    again = start_from(tmp_path / "run", run.model.config)  # a run is a start as well
    torch.testing.assert_close(logits(again, ids, size), logits(dense, ids, size))


def test_bad_tokenizers_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a tokenizer\.json of the `tokenizers`"):
        TextTokenizer.pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        TextTokenizer.pretrained(tmp_path)
    text = TextTokenizer.pretrained(checkpoint)
    assert TextTokenizer.pretrained(checkpoint, text.size + 9).size == text.size + 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.d_model", "64"], "has another shape than this run; give --model.d_model 32"),
        (["--modalities.text.vocabulary", "300"], "text tokens, but the data's text has 300"),
        ([], None),
    ],
)
def test_a_start_of_another_shape_is_refused_before_data_is_prepared(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str | None,
) -> None:
    size = load_dense(checkpoint).config.modalities[0].size
    given = ["--model.init_from", str(checkpoint), "--modalities.text.tokenizer", str(checkpoint)]
    given += ["-c", "chameleon", "--modalities.text.vocabulary", str(size + 3)]
    for name, value in SETTINGS.items():
        given += [f"--model.{name}", str(value).lower()]
    given += ["--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), *flags]
    with pytest.MonkeyPatch.context() as patch:

        def prepared(*args: Any, **more: Any) -> Any:
            raise RuntimeError("data is prepared")

        patch.setattr("mixture_of_mamba.data.build.build_or_load", prepared)
        assert main(["train", *given]) == 1
    assert (message or "data is prepared") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
