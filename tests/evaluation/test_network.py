"""The size of a saved model, read from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.evaluation.network import model_size
from mixture_of_mamba.models.flops import flops_breakdown

WORDS = Modality("text", "discrete", 30)


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": [WORDS, Modality("image", "discrete", 20)]},
        {"modalities": [WORDS, Modality("image", "continuous", 6)], "bias": True},
        {"modalities": [WORDS, Modality("image", "discrete", 20)], "tie_embeddings": True},
        {"modalities": [WORDS, Modality("a", "discrete", 2), Modality("b", "discrete", 3)],
         "split": {"in_proj", "dt_proj"}},
        {"modalities": [WORDS, Modality("image", "discrete", 20)], "mixer": "attention",
         "head_dim": 8},
        {"modalities": [WORDS]},
    ],
)  # fmt: skip
def test_the_files_say_what_the_model_says(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = ModelConfig(d_model=16, n_layers=2, **fields)
    model = MultimodalModel(config)
    model.save_pretrained(tmp_path)
    parts = flops_breakdown(config, window=64)
    size = model_size(tmp_path, window=64, flops_per_token=sum(parts.values()))
    assert size.parameters == model.parameter_count()
    assert size.active_parameters == model.parameter_count(active=True)
    assert size.flops_by_part == pytest.approx(parts)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    model = MultimodalModel(ModelConfig(d_model=16, n_layers=1, modalities=[WORDS]))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{half")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        model_size(tmp_path, window=64, flops_per_token=1.0)
