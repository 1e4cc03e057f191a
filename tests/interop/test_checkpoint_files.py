"""Bad checkpoints: each is refused by an error that says what is wrong; none runs code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.interop import load_dense, save_state_spaces, save_transformers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ModelConfig(
        d_model=16, n_layers=2, d_state=4, modalities=[Modality("text", "discrete", 40)]
    )
    save_transformers(MultimodalModel(config), tmp_path)
    return tmp_path


class Executes:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_wants_to_run_code_is_refused(folder: Path, save) -> None:
    proof = folder / "executed"
    (folder / "model.safetensors").unlink()
    save({"backbone.embedding.weight": Executes(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused.*could run code"):
        load_dense(folder)
    assert not proof.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False) if save is torch.save else (
        pickle.loads((folder / "pytorch_model.bin").read_bytes())
    )
    assert proof.exists()  # the file was as dangerous as it claims


@pytest.mark.parametrize("size", [0, 5, 300, -40])
def test_truncated_safetensors_are_named(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or truncated"):
        load_dense(folder)


@pytest.mark.parametrize("size", [0, 100, -300])
def test_truncated_pickles_are_named(folder: Path, size: int) -> None:
    model = load_dense(folder)
    (folder / "model.safetensors").unlink()
    save_state_spaces(model, folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged"):
        load_dense(folder)


def test_every_wrong_tensor_is_named_with_the_nearest(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    mixer = "backbone.layers.1.mixer."
    tensors[mixer + "inproj.weight"] = tensors.pop(mixer + "in_proj.weight")
    tensors[mixer + "D"] = tensors[mixer + "D"][:-1].clone()
    tensors["rotary.cache"] = torch.zeros(2)
    del tensors["backbone.norm_f.weight"]
    save_file(tensors, path)
    with pytest.raises(ValueError) as error:
        load_dense(folder)
    message = str(error.value)
    assert f"missing {mixer}in_proj.weight (64, 16) (is it {mixer}inproj.weight?)" in message
    assert f"{mixer}D has shape (31,), needs (32,)" in message
    assert "unexpected rotary.cache" in message
    assert "missing backbone.norm_f.weight (16,)" in message


def test_no_embedding_is_said_before_anything_else(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["backbone.embeddings.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"has 0 embeddings; exactly one of"):
        load_dense(folder)


def test_no_weights_and_no_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights; one of model\.safetensors"):
        load_dense(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_dense(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_dense(folder)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../model.safetensors", "names a shard outside its folder"),
        ("model-00002.safetensors", "is missing, but"),
    ],
)
def test_an_index_may_name_only_files_that_are_there(
    folder: Path, shard: str, message: str
) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"weight_map": {"backbone.norm_f.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_dense(folder)


def test_a_pickle_of_something_else_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not a table of tensors"):
        load_dense(folder)
