"""Audio networks of every class that the codecs know, tiny and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

__all__ = ["CODECS", "NEED_TORCHAUDIO", "ROOMS", "save_network"]

SEANET: dict[str, Any] = {"hidden_size": 16, "num_filters": 4, "codebook_size": 32}
HUBERT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
LEVELS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "encoder_hidden_size": 4,
    "quantization_dim": 80,
    "quantization_levels": [4] * 4,
    "semantic_model_config": {
        "model_type": "wav2vec2-bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
}


def _mimi() -> Any:
    config = transformers.MimiConfig(
        **SEANET,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=4,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        upsample_groups=16,
    )
    return transformers.MimiModel(config)


def _encodec(**changes: Any) -> Any:
    fields = {"target_bandwidths": [0.375, 0.75, 1.5], **changes}
    config = transformers.EncodecConfig(**SEANET, codebook_dim=16, num_lstm_layers=1, **fields)
    return transformers.EncodecModel(config)


def _encodec_48() -> Any:
    return _encodec(
        target_bandwidths=[1.5, 3.0],
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        sampling_rate=48_000,
        norm_type="time_group_norm",
        use_causal_conv=False,
    )


def _dac() -> Any:
    config = transformers.DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        codebook_size=32,
        codebook_dim=4,
        n_codebooks=3,
    )
    return transformers.DacModel(config)


def _wavtokenizer() -> Any:
    config = transformers.WavTokenizerConfig(
        **SEANET,
        codebook_dim=16,
        num_lstm_layers=1,
        decoder_hidden_size=16,
        decoder_intermediate_size=16,
        decoder_num_layers=1,
        decoder_attention_num_groups=4,
    )
    return transformers.WavTokenizerModel(config)


def _higgs() -> Any:
    acoustic = {"model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 32}
    ratios = [8, 5, 4, 2, 3]
    config = transformers.HiggsAudioV2TokenizerConfig(
        codebook_size=32,
        codebook_dim=8,
        target_bandwidths=[0.125, 0.25, 0.5],
        acoustic_model_config={
            **acoustic,
            "downsampling_ratios": ratios,
            "upsampling_ratios": ratios[::-1],
            "hidden_size": 128,
        },
        semantic_model_config={"model_type": "hubert", **HUBERT},
    )
    return transformers.HiggsAudioV2TokenizerModel(config)


def _pocket_tts() -> Any:
    config = transformers.PocketTTSAudioTokenizerConfig(
        hidden_size=16,
        num_filters=4,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        upsample_groups=16,
        latent_dim=4,
    )
    return transformers.PocketTTSAudioTokenizerModel(config)


ROOMS: dict[str, Callable[[], Any]] = {
    "mimi": _mimi,
    "encodec": _encodec,
    "encodec 48 kHz": _encodec_48,
    "dac": _dac,
    "wavtokenizer": _wavtokenizer,
    "higgs": _higgs,
    "xcodec2": lambda: transformers.Xcodec2Model(transformers.Xcodec2Config(**LEVELS)),
    "neucodec": lambda: transformers.NeuCodecModel(transformers.NeuCodecConfig(**LEVELS)),
    "pocket tts": _pocket_tts,
    "hubert": lambda: transformers.HubertModel(transformers.HubertConfig(**HUBERT)),
}
#: Codec, and codebooks to take.
CODECS: dict[str, tuple[str, int]] = {
    "mimi": ("mimi", 3),
    "encodec": ("encodec", 2),
    "encodec 48 kHz": ("encodec", 3),
    "dac": ("audio", 2),
    "wavtokenizer": ("audio", 1),
    "higgs": ("audio", 3),
    "xcodec2": ("audio", 1),
    "neucodec": ("audio", 1),
}
#: Of what fresh encoders give out, where that is far from 0.1: the codebooks get the same.
SCALES = {"encodec": 0.002, "wavtokenizer": 0.002}
#: Which transformers builds, or prepares sound for, only with torchaudio.
NEED_TORCHAUDIO = ("higgs", "xcodec2", "neucodec")
_EXTRACTORS = {"xcodec2": "Xcodec2FeatureExtractor", "neucodec": "NeuCodecFeatureExtractor"}


def save_network(name: str, folder: Path) -> Path:
    """A network with random weights that uses its codes, as save_pretrained writes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ROOMS[name]()
        # fresh codebooks are zeros, and fresh projections so small that every frame has one code
        for part, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if part.endswith((".embed", "embed_sum", "codebook.weight")):
                tensor.data.normal_(std=SCALES.get(name, 0.1))
            elif part.endswith("bias"):  # else every frame is much like every other
                tensor.data.zero_()
            elif "fc_encoder" in part or "project_in" in part:
                tensor.data.normal_()
    network.save_pretrained(folder)
    if name in _EXTRACTORS:
        getattr(transformers, _EXTRACTORS[name])().save_pretrained(folder)
    return folder
