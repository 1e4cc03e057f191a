"""Tiny VQ autoencoders of transformers and diffusers with random weights, saved as their libraries
save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["CODES", "FACTOR", "NETWORKS", "save_model", "save_network"]

#: Codec -> class of its network.
NETWORKS = {
    "janus": "JanusVQVAE",
    "emu3": "Emu3VQVAE",
    "chameleon": "ChameleonVQVAE",
    "vqmodel": "VQModel",
}
CODES, FACTOR = 24, 4

_SHARED = {
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
    "latent_channels": 8,
    "embed_dim": 8,
}
_FIELDS: dict[str, dict[str, Any]] = {
    "janus": {"num_embeddings": CODES, "num_patches": 8, **_SHARED},
    "emu3": {
        "codebook_size": CODES,
        "attn_resolutions": [2],
        "hidden_size": 32,
        "temporal_downsample_factor": 2,
        **_SHARED,
    },
    "chameleon": {"num_embeddings": CODES, "resolution": 32, **_SHARED},
    "vqmodel": {
        "num_vq_embeddings": CODES,
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "latent_channels": 4,
    },
}


def save_network(codec: str, folder: Path, **changes: Any) -> Path:
    """The network of a codec, of 4x4 pixels a code; its folder."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    name, fields = NETWORKS[codec], {**_FIELDS[codec], **changes}
    if codec == "vqmodel":
        network = diffusers.VQModel(**fields)
    else:
        kind = getattr(transformers, name)
        network = kind(kind.config_class(**fields))
    # random codebooks are much smaller than what encoders make: few of their codes would be used
    network.quantize.embedding.weight.data = _codebook(network)
    network.save_pretrained(folder)
    return folder


def _codebook(network: Any) -> torch.Tensor:
    """Vectors that the encoder itself makes, of noise."""
    weight = network.quantize.embedding.weight
    with torch.no_grad():
        noise = torch.randn(8, 3, 16, 16)
        if type(network).__name__ == "Emu3VQVAE":
            clip = noise.unsqueeze(1).repeat(1, network.config.temporal_downsample_factor, 1, 1, 1)
            made = network.quant_conv(network.encoder(clip).permute(0, 2, 1, 3, 4)).movedim(1, -1)
        else:
            made = network.quant_conv(network.encoder(noise)).movedim(1, -1)
    made = made.reshape(-1, weight.shape[1])
    return made[torch.randperm(len(made))[: len(weight)]].contiguous()


def save_model(codec: str, folder: Path, head: bool = True, **saving: Any) -> Path:
    """The whole model that a network is a part of.

    Args:
        head: with its language model's head.
        saving: of save_pretrained, such as max_shard_size.
    """
    import transformers

    torch.manual_seed(0)
    text = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vq = _FIELDS[codec]
    name, config = {"janus": "Janus", "emu3": "Emu3", "chameleon": "Chameleon"}[codec], None
    if codec == "janus":
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "mlp_ratio": 1.0,
            "projection_dim": 16,
            "num_image_tokens": 64,
        }
        vq = {**vq, "projection_dim": 16, "image_token_embed_dim": 16}
        text["model_type"] = "llama"
        config = transformers.JanusConfig(text_config=text, vision_config=vision, vq_config=vq)
    elif codec == "emu3":
        words = {"<image>": 5, "<|extra_200|>": 6}
        config = transformers.Emu3Config(text_config=text, vq_config=vq, vocabulary_map=words)
    else:
        words = {"<image>": 5, "IMGIMGAZ": 6}
        config = transformers.ChameleonConfig(**text, vq_config=vq, vocabulary_map=words)
    kind = getattr(transformers, name + ("ForConditionalGeneration" if head else "Model"))
    kind(config).save_pretrained(folder, **saving)
    return folder
