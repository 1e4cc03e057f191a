"""The public formats of dense Mamba-1 checkpoints: their configs and tensor names, as data.

state-spaces/mamba (`pytorch_model.bin`) and transformers' `MambaForCausalLM` (`model.safetensors`)
hold the same tensors; they differ in the name of the embedding and in the config's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models import Modality, ModelConfig

__all__ = [
    "TRANSFORMERS_NAMES",
    "format_of",
    "model_config_of",
    "rank_or_default",
    "state_spaces_config",
    "tensor_names",
    "transformers_config",
]

#: Field of ModelConfig -> what transformers' MambaConfig, and `interop.hf`, call it.
TRANSFORMERS_NAMES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}

#: Fields that a config.json of transformers may leave out.
_TRANSFORMERS_DEFAULTS = {
    "state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "time_step_rank": "auto",
    "use_bias": False,
    "use_conv_bias": True,
    "layer_norm_epsilon": 1e-5,
}

_EMBEDDING = {
    "state-spaces": "backbone.embedding.weight",
    "transformers": "backbone.embeddings.weight",
}


def format_of(config: Mapping[str, Any]) -> str:
    """ "state-spaces", "transformers", "mixture-hf" or "ours": who wrote this config.json.

    Raises:
        ValueError: none of these.
    """
    if config.get("model_type") == "mixture_of_mamba":
        return "mixture-hf"
    if config.get("model_type") == "mamba":
        return "transformers"
    if "modalities" in config and "d_model" in config:
        return "ours"
    if "d_model" in config and "n_layer" in config:
        return "state-spaces"
    found = config.get("model_type") or config.get("architectures") or sorted(config)[:6]
    raise ValueError(
        f"config.json describes {found!r}, which is not a Mamba-1 model that can be read: "
        "state-spaces (d_model, n_layer, …), transformers (model_type 'mamba'), or a model "
        "folder of this package is needed"
    )


def tensor_names(style: str, n_layers: int, *, bias: bool, conv_bias: bool) -> dict[str, str]:
    """File name -> our name of every tensor but the output map (`lm_head.weight`)."""
    parts = ["A_log", "D", "conv1d.weight", "dt_proj.bias"]
    parts += [f"{p}.weight" for p in ("in_proj", "x_proj", "dt_proj", "out_proj")]
    parts += ["conv1d.bias"] * conv_bias + ["in_proj.bias", "out_proj.bias"] * bias
    names = {
        _EMBEDDING[style]: "embedding.weight",
        "backbone.norm_f.weight": "backbone.norm.weight",
    }
    for i in range(n_layers):
        names[f"backbone.layers.{i}.norm.weight"] = f"backbone.blocks.{i}.norm.weight"
        for part in parts:
            names[f"backbone.layers.{i}.mixer.{part}"] = f"backbone.blocks.{i}.mixer.{part}"
    return names


def model_config_of(
    style: str, config: Mapping[str, Any], *, vocabulary: int, tied: bool, name: str
) -> ModelConfig:
    """The dense model that a config.json describes.

    Args:
        style: "state-spaces" or "transformers".
        config: the content of config.json.
        vocabulary: rows of the embedding (configs state it before padding).
        tied: whether the output map is the embedding.
        name: of the one modality.

    Raises:
        ValueError: another architecture than Mamba-1 with RMS norms.
    """
    read = _read_state_spaces if style == "state-spaces" else _read_transformers
    return ModelConfig(
        **read(config),
        modalities=(Modality(name, "discrete", vocabulary),),
        split=frozenset(),
        tie_embeddings=tied,
    )


def _read_state_spaces(config: Mapping[str, Any]) -> dict[str, Any]:
    ssm = dict(config.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer != "Mamba1":
        raise ValueError(f"ssm_cfg.layer is {layer!r}; only Mamba1 checkpoints can be read")
    if config.get("attn_layer_idx"):
        raise ValueError(f"layers {config['attn_layer_idx']} are attention; a pure Mamba is needed")
    if config.get("d_intermediate"):
        raise ValueError(
            f"d_intermediate is {config['d_intermediate']}; a Mamba without MLP is needed"
        )
    if not config.get("rms_norm", True):
        raise ValueError("rms_norm is false; checkpoints with LayerNorm cannot be read")
    return {
        "d_model": config["d_model"],
        "n_layers": config["n_layer"],
        "d_state": ssm.get("d_state", 16),
        "d_conv": ssm.get("d_conv", 4),
        "expand": ssm.get("expand", 2),
        "dt_rank": rank_or_default(ssm.get("dt_rank", "auto"), config["d_model"]),
        "bias": ssm.get("bias", False),
        "conv_bias": ssm.get("conv_bias", True),
    }


def _read_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act is {config['hidden_act']!r}; only silu can be read")
    full = {**_TRANSFORMERS_DEFAULTS, **config}
    tied = "tie_embeddings"  # the tensors say it
    read = {ours: full[theirs] for ours, theirs in TRANSFORMERS_NAMES.items() if ours != tied}
    return {**read, "dt_rank": rank_or_default(read["dt_rank"], read["d_model"])}


def rank_or_default(rank: int | str, d_model: int) -> int | None:
    """A stated rank of the step-size projection as ours: None where it is the default."""
    return None if rank in ("auto", -(-d_model // 16)) else int(rank)


def state_spaces_config(config: ModelConfig) -> dict[str, Any]:
    """config.json for state-spaces/mamba.

    Raises:
        ValueError: a norm_eps other than the one that state-spaces fixes.
    """
    if config.norm_eps != 1e-5:
        raise ValueError(
            f"norm_eps is {config.norm_eps}, but state-spaces/mamba always uses 1e-5; "
            "save in transformers' format instead"
        )
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layers,
        "vocab_size": config.vocabulary_size,
        "ssm_cfg": {
            "d_state": config.d_state,
            "d_conv": config.d_conv,
            "expand": config.expand,
            "dt_rank": config.block.rank,
            "bias": config.bias,
            "conv_bias": config.conv_bias,
        },
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,  # vocab_size counts every row already
        "tie_embeddings": config.tie_embeddings,
    }


def transformers_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json for transformers' MambaForCausalLM.

    Raises:
        ValueError: an `expand` that is not a whole number, which transformers does not read.
    """
    if int(config.expand) != config.expand:
        raise ValueError(
            f"expand is {config.expand}, but transformers' Mamba takes whole numbers only; "
            "save in state-spaces' format instead"
        )
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": config.vocabulary_size,
        **{theirs: getattr(config, ours) for ours, theirs in TRANSFORMERS_NAMES.items()},
        "expand": int(config.expand),
        "time_step_rank": config.block.rank,
        "intermediate_size": config.block.d_inner,
        "hidden_act": "silu",
        "residual_in_fp32": True,
        "dtype": dtype,
    }
