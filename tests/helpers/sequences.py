"""Hand-made documents of text and continuous segments, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.batch import Batch

__all__ = ["DIM", "batch_of", "caption_first", "image_first", "model_of", "text_only"]

DIM = 6
PATCHES = 4
BEGIN, END, OPEN, CLOSE = 16, 17, 18, 19  # ids of <image>, </image>, <document>, </document>

Document = list[int | Tensor]
"""Text ids, and (p, DIM) values for a continuous segment."""


def caption_first(seed: int, words: int = 5) -> Document:
    """<document> words <image> patches </image> </document>"""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(16, (words,), generator=g).tolist()
    return [OPEN, *text, BEGIN, torch.randn(PATCHES, DIM, generator=g), END, CLOSE]


def image_first(seed: int, words: int = 5) -> Document:
    """<document> <image> patches </image> words </document>"""
    g = torch.Generator().manual_seed(seed)
    text = torch.randint(16, (words,), generator=g).tolist()
    return [OPEN, BEGIN, torch.randn(PATCHES, DIM, generator=g), END, *text, CLOSE]


def text_only(seed: int, words: int = 9) -> Document:
    """<document> words </document>"""
    g = torch.Generator().manual_seed(seed)
    return [OPEN, *torch.randint(16, (words,), generator=g).tolist(), CLOSE]


def batch_of(windows: Sequence[Sequence[Document]], seed: int | None = 0) -> Batch:
    """One row per window, documents packed in it; all windows must come out equally long."""
    ids, tokens, documents, segments, values = [], [], [], [], []
    segment = 0
    for window in windows:
        for number, document in enumerate(window):
            for item in document:
                count = 1
                if isinstance(item, Tensor):
                    count, segment = len(item), segment + 1
                    values.append(item)
                ids += [int(isinstance(item, Tensor))] * count
                tokens += [0] * count if isinstance(item, Tensor) else [item]
                documents += [number] * count
                segments += [segment] * count
                segment += isinstance(item, Tensor)
    shape = (len(windows), -1)
    return Batch(
        modality_ids=torch.tensor(ids).view(shape),
        tokens=torch.tensor(tokens).view(shape),
        document_ids=torch.tensor(documents).view(shape),
        segment_ids=torch.tensor(segments).view(shape),
        values={"image": torch.cat(values)} if values else {},
        seed=seed,
    )


def model_of(
    split: str = "all", weight: float = 5.0, *, seed: int = 0, **diffusion: object
) -> MultimodalModel:
    """Two blocks of width 16 over 20 text ids and vectors of DIM."""
    modalities = [Modality("text", "discrete", 20), Modality("image", "continuous", DIM, weight)]
    config = ModelConfig(
        d_model=16,
        n_layers=2,
        d_state=4,
        modalities=modalities,
        split=split,  # type: ignore[arg-type]
        diffusion=diffusion,
    )
    return MultimodalModel(config, seed=seed)
