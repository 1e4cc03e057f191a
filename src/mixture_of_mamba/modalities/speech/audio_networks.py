"""Audio networks with codebooks as transformers has them: what each says of itself, and its calls.

The classes agree on little: how many codebooks are asked for, what they hear besides the waveform,
and which axes their codes have. Each has a wrapper here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...extras import needs
from ..pretrained import class_of, config_of, loading
from .audio_network import AudioNetwork, Facts
from .mel import LOUDNESS

__all__ = ["facts_of", "network_class"]

#: In the list of AutoModelForAudioTokenization too, but without codebooks.
CONTINUOUS = ("pocket_tts_audio_tokenizer", "vibevoice_acoustic_tokenizer")


class _Mimi(AudioNetwork):
    class_name = "MimiModel"

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        if config.audio_channels != 1:
            raise ValueError(f"it has {config.audio_channels} channels; one with 1 is needed")
        if config.encoder_config is None:
            raise ValueError("it was saved without its encoder; give one with encoder and decoder")
        one_way = None
        if config.decoder_config is None:
            one_way = "this MimiModel was saved without its decoder; train with one that has both"
        return Facts(
            name=cls.class_name,
            rate=config.sampling_rate,
            out_rate=config.sampling_rate,
            frame=math.prod(config.upsampling_ratios) * config.latent_stride,
            codebooks=config.num_quantizers,
            codes=config.codebook_size,
            least=config.num_semantic_quantizers,
            cannot_decode=one_way,
        )

    def encode(self, waveform: Any) -> Any:
        found = self.network.encode(waveform[None, None], num_quantizers=self.codebooks)
        return found.audio_codes[0]


class _Dac(AudioNetwork):
    class_name = "DacModel"

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        return Facts(
            name=cls.class_name,
            rate=config.sampling_rate,
            out_rate=config.sampling_rate,
            frame=math.prod(config.downsampling_ratios),
            codebooks=config.n_codebooks,
            codes=config.codebook_size,
        )

    def encode(self, waveform: Any) -> Any:
        found = self.network.encode(waveform[None, None], n_quantizers=self.codebooks)
        return found.audio_codes[0]


class _WavTokenizer(AudioNetwork):
    class_name = "WavTokenizerModel"

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        return Facts(
            name=cls.class_name,
            rate=config.sampling_rate,
            out_rate=config.sampling_rate,
            frame=config.hop_length,
            codebooks=1,
            codes=config.codebook_size,
        )

    def encode(self, waveform: Any) -> Any:
        return self.network.encode(waveform[None, None]).audio_codes[0]


class _ByBandwidth(AudioNetwork):
    """Counts its codebooks in kilobits a second; the first ones are the same at every bandwidth."""

    @property
    def bandwidth(self) -> float:
        """The least that has all codebooks that are asked for."""
        counted = self.network.quantizer.get_num_quantizers_for_bandwidth
        bandwidths = sorted(self.network.config.target_bandwidths)
        return next((b for b in bandwidths if counted(b) >= self.codebooks), bandwidths[-1])


class _Higgs(_ByBandwidth):
    class_name = "HiggsAudioV2TokenizerModel"

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        return Facts(
            name=cls.class_name,
            rate=config.sample_rate,
            out_rate=config.sample_rate,
            frame=config.hop_length,
            codebooks=config.num_quantizers,
            codes=config.codebook_size,
        )

    def encode(self, waveform: Any) -> Any:
        found = self.network.encode(waveform[None, None], bandwidth=self.bandwidth)
        return found.audio_codes[0, : self.codebooks]


class _Encodec(_ByBandwidth):
    """Two channels hear the same, and are averaged. The codes of the overlapping chunks that some
    networks hear (48 kHz) follow each other. Where each is divided by its loudness (`normalize`),
    which no code says, sound comes back as loud as `units` makes it."""

    class_name = "EncodecModel"

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        chunk, stride = config.chunk_length, config.chunk_stride
        if chunk is not None and (stride is None or chunk % config.hop_length):
            raise ValueError(
                f"its chunks of {config.chunk_length_s} s (overlap {config.overlap}) are no whole "
                f"frames of {config.hop_length} samples, or have no overlap; set chunk_length_s "
                "and overlap in config.json"
            )
        return Facts(
            name=cls.class_name,
            rate=config.sampling_rate,
            out_rate=config.sampling_rate,
            frame=config.hop_length,
            codebooks=config.num_quantizers,
            codes=config.codebook_size,
            chunk=chunk,
            stride=stride,
        )

    def encode(self, waveform: Any) -> Any:
        x = waveform.expand(1, self.network.config.audio_channels, -1)
        codes = self.network.encode(x, bandwidth=self.bandwidth).audio_codes  # (chunk, 1, book, t)
        codes = codes[:, 0, : self.codebooks].transpose(0, 1).flatten(1)
        # what follows is filling, or a chunk of nothing but what the last one overlaps
        return codes[:, : self.facts.frames(len(waveform))]

    def decode(self, codes: Any) -> Any:
        import torch

        facts, frames = self.facts, codes.shape[1]
        each = frames if facts.chunk is None else facts.chunk // facts.frame
        if facts.chunk is not None and facts.stride is not None and frames > each:
            last = frames % each
            if last * facts.frame <= facts.chunk - facts.stride:  # the one before it says as much
                frames -= last
        missing = -frames % each
        padded = torch.nn.functional.pad(codes[:, :frames], (0, missing))
        pieces = padded.unflatten(1, (-1, each))
        scale = torch.full((1, 1), LOUDNESS) if self.network.config.normalize else None
        found = self.network.decode(
            pieces.transpose(0, 1)[:, None],
            [scale] * pieces.shape[1],
            last_frame_pad_length=missing,
        )
        return found.audio_values[0]


class _Semantic(AudioNetwork):
    """Hears features beside the waveform; one codebook, whose codes are combined levels."""

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        rate = getattr(config, "input_sampling_rate", None) or config.sampling_rate
        return Facts(
            name=cls.class_name,
            rate=rate,
            out_rate=getattr(config, "output_sampling_rate", rate),
            frame=math.prod(config.downsampling_ratios),
            codebooks=1,
            codes=math.prod(config.quantization_levels),
        )

    def encode(self, waveform: Any) -> Any:
        heard = self.extractor(waveform.numpy(), sampling_rate=self.facts.rate, return_tensors="pt")
        # the extractor adds a sample, and with it a frame of nothing
        return self.network.encode(**heard).audio_codes[0, :, : self.facts.frames(len(waveform))]


class _Xcodec2(_Semantic):
    class_name, extractor_name = "Xcodec2Model", "Xcodec2FeatureExtractor"


class _NeuCodec(_Semantic):
    class_name, extractor_name = "NeuCodecModel", "NeuCodecFeatureExtractor"


#: By transformers' model type.
NETWORKS: dict[str, type[AudioNetwork]] = {
    "mimi": _Mimi,
    "encodec": _Encodec,
    "dac": _Dac,
    "higgs_audio_v2_tokenizer": _Higgs,
    "neucodec": _NeuCodec,
    "wavtokenizer": _WavTokenizer,
    "xcodec2": _Xcodec2,
}


def network_class(folder: Path, types: Sequence[str]) -> type[AudioNetwork]:
    """The wrapper of a folder's network.

    Args:
        types: model types that may be there.

    Raises:
        FileNotFoundError, ValueError: it holds none of them.
    """
    config = config_of(folder)
    kind = config.get("model_type")
    if kind in types:
        return NETWORKS[str(kind)]
    known = ", ".join(NETWORKS[name].class_name for name in types)
    problem = f"{folder} holds a {class_of(config)}, but this codec is for {known}"
    if kind in CONTINUOUS:
        problem += "; this one makes vectors, which have no codebook"
    elif kind in NETWORKS:
        problem += "; choose the codec " + (str(kind) if kind in ("mimi", "encodec") else "audio")
    raise ValueError(f"{problem}; or give another folder")


def facts_of(folder: Path, types: Sequence[str]) -> Facts:
    """What config.json says of a folder's network.

    Raises:
        FileNotFoundError, ValueError: it holds none of these types, or one that cannot be used.
    """
    network_class(folder, types)
    return _facts(folder, (folder / "config.json").stat().st_mtime_ns)


@lru_cache(8)
def _facts(folder: Path, written: int) -> Facts:
    """Kept until config.json is written again, since every item that is prepared asks for the
    rate."""
    with needs("audio networks", "train"):
        from transformers import CONFIG_MAPPING
    config = config_of(folder)
    found = NETWORKS[config["model_type"]]
    with loading(folder, found.class_name):
        return found.facts_from(CONFIG_MAPPING[config["model_type"]].from_dict(config))
