"""A model's config refuses what cannot be one, in words that help."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel

TEXT = Modality("text", "discrete", 9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("image.png", "continuous", 4), "name 'image.png' holds '.'; .* made of letters, digits"),
        (("a/b", "discrete", 4), "holds '/'"),
        (("a:b", "discrete", 4), "holds ':'"),
        (("line\nbreak", "discrete", 4), "holds '\\\\n'"),
        ((3, "discrete", 4), "name is 3; it needs one, as text"),
        (("", "discrete", 4), "name is ''; it needs one"),
        (("items", "continuous", 4), "cannot be called 'items'.* call it 'items_data'"),
        (("training", "continuous", 4), "cannot be called 'training'"),
        (("shared", "discrete", 4), "cannot be called 'shared'"),
        (("text", "discrete", 0), "has size 0; it must be at least 1"),
        (("text", "discrete", 4, float("nan")), "has loss_weight nan; give 0 or more"),
        (("text", "discrete", 4, float("inf")), "has loss_weight inf"),
        (("text", "discrete", 4, -1.0), "has loss_weight -1.0"),
    ],
)
def test_a_modality_that_cannot_be_is_named(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Modality(*arguments)


def test_no_continuous_modality_is_called_like_an_attribute_of_torch() -> None:
    # in a process of its own: other libraries add attributes to torch's modules
    code = "import torch; print(*dir(torch.nn.ModuleDict()))"
    command = [sys.executable, "-c", code]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        with pytest.raises(ValueError, match="cannot be called"):
            Modality(name, "continuous", 4)
        Modality(name, "discrete", 4)


@pytest.mark.parametrize("size", [4.0, "4", None])
def test_a_size_is_a_whole_number(size: Any) -> None:
    with pytest.raises(TypeError, match=r"size of 'text' is .*; give a whole number"):
        Modality("text", "discrete", size)


@pytest.mark.parametrize("name", ["items", "keys", "text 2", "ton-spur", "речь", "2"])
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_every_other_name_makes_a_model(name: str, kind: Any) -> None:
    if kind == "continuous" and name in ("items", "keys"):
        name += "_data"
    modalities = [TEXT, Modality(name, kind, 5)]
    model = MultimodalModel(ModelConfig(d_model=8, n_layers=1, modalities=modalities))
    assert model.config.index(name) == 1


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"modalities": ["text"]}, TypeError, "a modality is 'text'; give Modality"),
        (
            {"modalities": [{"name": "text", "kind": "discrete", "sise": 4}]},
            ValueError,
            r"unknown fields \['sise'\]; choose from \['name', 'kind', 'size', 'loss_weight'\]",
        ),
        ({"modalities": [{"name": "text"}]}, ValueError, "modality 'text' lacks kind, size"),
        ({"d_model": 8.0}, TypeError, "d_model is 8.0; give a whole number"),
        ({"d_model": 0}, ValueError, "d_model is 0; it must be at least 1"),
        ({"n_layers": 2.5}, TypeError, "n_layers is 2.5; give a whole number"),
        ({"head_dim": 0}, ValueError, "head_dim is 0; it must be at least 1"),
        ({"norm_eps": 0.0}, ValueError, "norm_eps is 0.0; it must be above 0"),
        ({"norm_eps": float("nan")}, ValueError, "norm_eps is nan"),
    ],
)
def test_a_config_that_cannot_be_is_named(fields: dict, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ModelConfig(**{"d_model": 8, "n_layers": 1, "modalities": [TEXT], **fields})


def test_numbers_of_numpy_are_numbers() -> None:
    config = ModelConfig(
        d_model=np.int64(8),  # type: ignore[arg-type]
        n_layers=np.int32(1),  # type: ignore[arg-type]
        modalities=[Modality("text", "discrete", np.int64(9))],  # type: ignore[arg-type]
    )
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert type(config.d_model) is type(config.modalities[0].size) is int
