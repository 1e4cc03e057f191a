"""Small models of two modalities, for the tests of the classes for transformers."""

from __future__ import annotations

from typing import Any

import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel

TEXT, IMAGE = 30, 20
STEP = {"atol": 1e-5, "rtol": 1e-5}  # steps against the whole, float32 logits


def ours(**fields: Any) -> MultimodalModel:
    modalities = [Modality("text", "discrete", TEXT), Modality("image", "discrete", IMAGE)]
    model = MultimodalModel(
        ModelConfig(
            **{"d_model": 32, "n_layers": 2, "d_state": 4, "modalities": modalities} | fields
        )
    )
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return model.eval()


def our_name(theirs: str) -> str:
    """Of a parameter of the class for transformers, its name in this package's model."""
    for old, new in [
        ("backbone.embeddings.", "embedding."),
        ("backbone.layers.", "backbone.blocks."),
        ("backbone.norm_f.", "backbone.norm."),
        ("lm_head.", "head."),
    ]:
        theirs = theirs.replace(old, new)
    return theirs


def as_batch(ids: torch.Tensor, **fields: Any) -> Batch:
    """Joint ids as this package's batch."""
    modality = (ids >= TEXT).long()
    return Batch(tokens=ids - TEXT * modality, modality_ids=modality, **fields)


def logits_alone(model: MultimodalModel, ids: torch.Tensor) -> torch.Tensor:
    """(t, joint vocabulary) of one sequence (t,) without any padding, from this package's model."""
    return model(as_batch(ids[None]), return_logits=True).logits[0]


def greedy(model: MultimodalModel, ids: torch.Tensor, steps: int) -> torch.Tensor:
    """(steps,) tokens that follow one sequence (t,), each from a whole pass over all before it."""
    begin = len(ids)
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, logits_alone(model, ids)[-1:].argmax(-1)])
    return ids[begin:]
