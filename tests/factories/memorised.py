"""A model that knows the documents of two scenes by heart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.generation.sequence import TokenSequence
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet

from .data import tiny_bundle
from .models import pack

STEPS = 260


def short_examples() -> list[Example]:
    """Two validation scenes with short utterances, cut to one second."""
    bundle = tiny_bundle()
    chosen = sorted(bundle.validation_examples, key=lambda e: len(e.caption))[:2]
    cut = []
    for example in chosen:
        wave, rate = example.items["speech"]
        cut.append(Example({**example.items, "speech": (wave[:rate], rate)}, example.facts))
    return cut


def documents(tokenizers: TokenizerSet, examples: Sequence[Example]) -> list[TokenSequence]:
    """Each scene as text -> image -> speech, image -> text, speech -> text."""
    made = []
    for e in examples:
        text, image = ("text", e.caption), ("image", e.items["image"])
        speech = ("speech", e.items["speech"])
        for order in ((text, image, speech), (text, speech), (image, text), (speech, text)):
            made.append(
                TokenSequence.of(
                    tokenizers.assemble(
                        [(name, tokenizers.encode(name, item)) for name, item in order]
                    )
                )
            )
    return made


def learn() -> tuple[Generator, list[Example]]:
    """A generator whose model knows the documents of two scenes by heart."""
    tokenizers = tiny_bundle().tokenizers
    examples = short_examples()
    config = ModelConfig(
        d_model=64,
        n_layers=2,
        modalities=[Modality(*m) for m in tokenizers.modalities],
    )
    model = MultimodalModel(config, seed=1)
    batch = pack(documents(tokenizers, examples))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    for _ in range(STEPS):
        loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return Generator(model.eval(), tokenizers), examples
