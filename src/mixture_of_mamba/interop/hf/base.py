"""Base class of the models for transformers: initial values and module lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration import MixtureOfMambaConfig

__all__ = ["MixtureOfMambaPreTrainedModel"]

#: How transformers marks parameters that have their values.
_DONE = "_is_hf_initialized"


class MixtureOfMambaPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Configuration, initial values, and what transformers asks about."""

    config_class = MixtureOfMambaConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MambaBlock"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["A_log", "D"]  # noqa: RUF012
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initial values of what a checkpoint did not bring; transformers asks module by module.

        What a parameter of a block starts as depends on its place in it, so that the whole block is
        drawn, and what was loaded (or drawn before) is put back.
        """
        if isinstance(module, nn.Embedding | nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            return
        for block in getattr(self, "layers", ()):
            if any(module is part for part in block.modules()):
                kept = {
                    name: p.detach().clone()
                    for name, p in block.named_parameters()
                    if getattr(p, _DONE, False)
                }
                block.init_weights(residual_branches=self.config.num_hidden_layers)
                for name, p in block.named_parameters():
                    p.copy_(kept.get(name, p))
                    setattr(p, _DONE, True)
                return
        if isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)

    def _set_gradient_checkpointing(
        self, *args: Any, every_n_layers: int = 1, **kwargs: Any
    ) -> None:
        """As PreTrainedModel's; of the blocks, every n-th is recomputed."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        for module in self.modules():
            if hasattr(module, "recompute_every"):
                module.recompute_every = every_n_layers  # type: ignore[assignment]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        """Only asked for by callers that change nothing; the vocabulary belongs to modalities.

        Raises:
            ValueError: another size is asked for.
        """
        size = args[0] if args else kwargs.get("new_num_tokens")
        if size not in (None, self.config.vocab_size):
            raise ValueError(
                f"the vocabulary of {self.config.vocab_size} tokens is that of the modalities and "
                "cannot be resized here; interop.upcycle appends tokens and modalities"
            )
        return self.get_input_embeddings()
