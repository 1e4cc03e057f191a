"""Tiny models whose weights are large enough that states matter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation.sequence import TokenSequence

TEXT, IMAGE, SPEECH = 0, 1, 2


def make_model(
    *modalities: Modality, seed: int = 0, d_model: int = 32, **fields: object
) -> MultimodalModel:
    """Three blocks; embeddings of unit scale, large projections,
    so that logits tell one past from another."""
    config = ModelConfig(
        d_model=d_model,
        n_layers=3,
        modalities=modalities
        or (
            Modality("text", "discrete", 40),
            Modality("image", "discrete", 17),
            Modality("speech", "discrete", 12),
        ),
        **fields,  # type: ignore[arg-type]
    )
    model = MultimodalModel(config, seed=seed).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(50)
        model.head.weight.mul_(20)
        for name, p in model.named_parameters():
            if "x_proj" in name or "out_proj" in name:
                p.mul_(4)
    return model


def random_sequence(length: int, seed: int, sizes: tuple[int, ...] = (34, 16, 11)) -> TokenSequence:
    """A document with modality switches; starts with text."""
    generator = torch.Generator().manual_seed(seed)
    sequence = TokenSequence([TEXT], [34])
    for _ in range(length - 1):
        modality = int(torch.randint(len(sizes), (), generator=generator))
        token = int(torch.randint(sizes[modality], (), generator=generator))
        sequence.append(modality, token)
    return sequence


def pack(sequences: Sequence[TokenSequence]) -> Batch:
    """All sequences in one row, one document each: (1, sum of lengths)."""
    return Batch(
        modality_ids=torch.tensor([[m for s in sequences for m in s.modalities]]),
        tokens=torch.tensor([[t for s in sequences for t in s.tokens]]),
        document_ids=torch.tensor([[i for i, s in enumerate(sequences) for _ in range(len(s))]]),
    )
