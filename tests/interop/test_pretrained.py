"""Dense checkpoints: transformers' own model on the same weights gives the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.interop import load_dense, load_model, save_state_spaces, save_transformers

transformers = pytest.importorskip("transformers")

LOGITS = 1e-5  # largest difference of two implementations in float32


@pytest.fixture(scope="module", params=["plain", "biases", "untied", "odd shapes"])
def theirs(request: pytest.FixtureRequest) -> transformers.MambaForCausalLM:
    """A random tiny model of transformers."""
    torch.manual_seed(0)
    fields = {
        "plain": {},
        "biases": {"use_bias": True},
        "untied": {"tie_word_embeddings": False, "use_conv_bias": False},
        "odd shapes": {"time_step_rank": 3, "state_size": 5, "conv_kernel": 3, "expand": 3},
    }[request.param]
    config = transformers.MambaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, **({"state_size": 8} | fields)
    )
    return transformers.MambaForCausalLM(config).eval()


def logits(model: MultimodalModel, ids: torch.Tensor) -> torch.Tensor:
    batch = Batch(tokens=ids, modality_ids=torch.zeros_like(ids))
    with torch.no_grad():
        result = model(batch, return_logits=True).logits
    assert result is not None
    return result


def test_logits_equal_those_of_transformers(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 50, (2, 19))
    with torch.no_grad():
        expected = theirs(ids).logits
    torch.testing.assert_close(
        logits(load_dense(tmp_path), ids), expected, atol=LOGITS, rtol=LOGITS
    )


@pytest.mark.filterwarnings("ignore:.*runs on backend 'torch'")
def test_a_deep_model_is_as_exact_as_transformers(tmp_path: Path) -> None:
    """Random weights amplify rounding with depth; float64 says whose error it is."""
    config = transformers.MambaConfig(vocab_size=50, hidden_size=64, num_hidden_layers=16)
    theirs = transformers.MambaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(0, 50, (2, 24))
    truth = logits(load_dense(tmp_path, dtype=torch.float64), ids)
    with torch.no_grad():
        error = (theirs(ids).logits - truth).abs().max()
    ours = (logits(load_dense(tmp_path), ids) - truth).abs().max()
    assert ours < 2 * error
    assert error < 1e-3  # both compute the same function


@pytest.mark.parametrize("save", [save_state_spaces, save_transformers])
def test_saved_again_gives_the_same_tensors_to_the_bit(theirs, tmp_path: Path, save) -> None:
    theirs.save_pretrained(tmp_path / "a")
    save(load_dense(tmp_path / "a"), tmp_path / "b")
    first, second = load_dense(tmp_path / "a"), load_dense(tmp_path / "b")
    assert first.config == second.config
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_transformers_reads_what_we_write(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "a")
    save_transformers(load_dense(tmp_path / "a"), tmp_path / "b")
    again, report = transformers.MambaForCausalLM.from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_state_spaces_files_have_the_pinned_names(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "a")
    save_state_spaces(load_dense(tmp_path / "a"), tmp_path / "b")
    names = torch.load(tmp_path / "b" / "pytorch_model.bin", weights_only=True)
    mixer = "backbone.layers.2.mixer."
    assert {
        *("backbone.embedding.weight", "backbone.layers.0.norm.weight", "backbone.norm_f.weight"),
        *("lm_head.weight", mixer + "A_log", mixer + "D", mixer + "conv1d.weight"),
        *(mixer + f"{p}.weight" for p in ("in_proj", "x_proj", "dt_proj", "out_proj")),
        mixer + "dt_proj.bias",
    } <= names.keys()
    assert names[mixer + "conv1d.weight"].shape[1:] == (1, theirs.config.conv_kernel)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {"d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm"} <= config.keys()


def test_padded_vocabularies_count_by_their_rows(tmp_path: Path) -> None:
    """state-spaces' configs state the size before padding to a multiple."""
    save_state_spaces(tiny(vocabulary=56), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"vocab_size": 50, "pad_vocab_size_multiple": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_dense(tmp_path).config.modalities[0].size == 56


def test_half_precision_keeps_the_decay_in_float32(tmp_path: Path) -> None:
    save_transformers(tiny(), tmp_path)
    model = load_dense(tmp_path, dtype=torch.bfloat16)
    dtypes = {name.rpartition(".")[2]: p.dtype for name, p in model.named_parameters()}
    assert dtypes["A_log"] == dtypes["D"] == torch.float32
    assert dtypes["weight"] == torch.bfloat16
    assert logits(model, torch.zeros(1, 4, dtype=torch.int64)).isfinite().all()


def test_sharded_safetensors_are_put_together(tmp_path: Path) -> None:
    model = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=50, hidden_size=24, num_hidden_layers=3)
    )
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids = torch.randint(0, 50, (1, 7))
    with torch.no_grad():
        expected = model.eval()(ids).logits
    torch.testing.assert_close(
        logits(load_dense(tmp_path), ids), expected, atol=LOGITS, rtol=LOGITS
    )


def test_any_folder_is_recognised(tmp_path: Path) -> None:
    model = tiny()
    save_state_spaces(model, tmp_path / "ss")
    save_transformers(model, tmp_path / "hf")
    model.save_pretrained(tmp_path / "ours")
    model.save_pretrained(tmp_path / "run" / "model")
    ids = torch.randint(0, 40, (1, 5))
    for name in ("ss", "hf", "ours", "run"):
        assert torch.equal(logits(load_model(tmp_path / name), ids), logits(model, ids)), name
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_model(tmp_path)


def test_an_inner_width_that_is_no_multiple(tmp_path: Path) -> None:
    """state-spaces rounds expand * d_model down; transformers' own class refuses the number."""
    modalities = (Modality("text", "discrete", 40),)
    model = MultimodalModel(
        ModelConfig(d_model=30, n_layers=2, expand=1.25, modalities=modalities, split="none")
    )
    assert model.backbone.blocks[0].mixer.D.shape == (37,)
    save_state_spaces(model, tmp_path / "ss")
    ids = torch.randint(0, 40, (2, 9))
    assert torch.equal(logits(load_dense(tmp_path / "ss"), ids), logits(model, ids))
    model.save_pretrained(tmp_path / "ours")
    assert torch.equal(logits(load_model(tmp_path / "ours"), ids), logits(model, ids))
    with pytest.raises(ValueError, match=r"expand is 1\.25, but transformers"):
        save_transformers(model, tmp_path / "tf")


def test_a_mixture_is_not_saved_as_dense(tmp_path: Path) -> None:
    mixture = tiny(modalities=[Modality("text", "discrete", 40), Modality("image", "discrete", 9)])
    with pytest.raises(ValueError, match=r"2 experts .* merge the experts first"):
        save_transformers(mixture, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm": False}, "LayerNorm cannot be read"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "only Mamba1"),
        ({"attn_layer_idx": [1]}, "are attention"),
        ({"d_intermediate": 64}, "Mamba without MLP"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    save_state_spaces(tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load_dense(tmp_path)


def test_an_unknown_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "falcon_mamba"}')
    with pytest.raises(ValueError, match=r"falcon_mamba.*not a Mamba-1 model"):
        load_dense(tmp_path)


def tiny(vocabulary: int = 40, modalities: list[Modality] | None = None) -> MultimodalModel:
    return MultimodalModel(
        ModelConfig(
            d_model=16,
            n_layers=2,
            d_state=4,
            modalities=modalities or [Modality("text", "discrete", vocabulary)],
            split="none" if modalities is None else "all",  # type: ignore[arg-type]
        )
    )
