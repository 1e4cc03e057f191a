"""Tokenizers of each modality, and the set that turns documents into tokens and back."""

from mixture_of_mamba.data.tokenizers.tokenizer_set import TokenizerSet

__all__ = ["TokenizerSet"]
