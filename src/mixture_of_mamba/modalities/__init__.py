"""What a modality is: its files, its codec, and how its items stand in a document."""

from .codec import Codec
from .media import Limits, Media
from .options import CodecOptions
from .registry import codec_class, register

__all__ = ["Codec", "CodecOptions", "Limits", "Media", "codec_class", "register"]
