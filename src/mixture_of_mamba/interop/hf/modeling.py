"""Mixture-of-Mamba over tokens as transformers' models: cache, generate(), Trainer, adapters.

Token ids are joint: the vocabulary of each modality follows that of the one before it. The modality
of a token is therefore known from its id, and `modality_ids` may be left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin

from ...layers import MambaBlock, RMSNorm
from ...ops import Routing
from .base import MixtureOfMambaPreTrainedModel
from .configuration import MixtureOfMambaConfig
from .outputs import BackboneOutput, CausalLMOutput
from .states import make_routing, read_state, write_state

__all__ = ["MixtureOfMambaForCausalLM", "MixtureOfMambaModel"]


class MixtureOfMambaModel(MixtureOfMambaPreTrainedModel):
    """Embedding -> blocks -> norm."""

    def __init__(self, config: MixtureOfMambaConfig) -> None:
        super().__init__(config)
        plain = config.to_model_config()
        block, self._ranges = plain.block, plain.vocabulary_ranges
        self.embeddings = nn.Embedding(plain.vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(MambaBlock(block) for _ in range(config.num_hidden_layers))
        self.norm_f = RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value  # type: ignore[assignment]

    def modalities_of(self, input_ids: Tensor) -> Tensor:
        """(b, t) modality of joint token ids: the range of the vocabulary that each lies in."""
        ends = torch.tensor([high for _, high in self._ranges], device=input_ids.device)
        return torch.bucketize(input_ids.contiguous(), ends, right=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_params: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Hidden states of the tokens.

        Args:
            input_ids: (b, t) joint token ids; or `inputs_embeds` (b, t, d) with modality_ids.
            attention_mask: (b, t) of 0 and 1; padding is a document of its own.
            modality_ids: (b, t); by default that of each token id.
            document_ids: (b, t) of packed documents; the state starts anew where they change.
            cache_params: what an earlier call returned for the tokens before these; any number of
                tokens may follow.

        Raises:
            ValueError: both or neither of input_ids and inputs_embeds, or shapes that do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if modality_ids is None:
            modality_ids = self._modalities(input_ids, inputs_embeds)
        x = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        default = self.config.use_cache and not self.training
        if cache_params is None and (default if use_cache is None else use_cache):
            cache_params = DynamicCache(config=self.config)
        routing, documents = make_routing(
            modality_ids,
            len(self.config.modalities),
            attention_mask=attention_mask,
            document_ids=document_ids,
            continues=read_state(cache_params, 0) is not None,
        )
        default = self.config.output_hidden_states
        seen: list[Tensor] | None = None
        if default if output_hidden_states is None else output_hidden_states:
            seen = []
        last = routing.to_time(self._blocks(routing.to_rows(x), routing, cache_params, seen))
        states = None if seen is None else (*(routing.to_time(rows) for rows in seen), last)
        output = BackboneOutput(last, cache_params, states, documents)
        plain = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if plain else output

    def _blocks(
        self, rows: Tensor, routing: Routing, cache: Any, seen: list[Tensor] | None
    ) -> Tensor:
        """All blocks and the norm; the cache is moved on, and what enters each block is kept in
        `seen` where there is such a list."""
        for i, block in enumerate(self.layers):
            if seen is not None:
                seen.append(rows)
            before = read_state(cache, i)
            if self.gradient_checkpointing and self.training:
                recompute: Any = self._gradient_checkpointing_func
                rows, after = recompute(block.forward_rows, rows, routing, before)
            else:
                rows, after = block.forward_rows(rows, routing, before)  # type: ignore[operator]
            if cache is not None:
                write_state(cache, i, after)
        return self.norm_f(rows)

    def _modalities(self, input_ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        if input_ids is not None:
            return self.modalities_of(input_ids)
        assert embeds is not None
        if len(self.config.modalities) > 1:
            raise ValueError("inputs_embeds do not tell their modality; give modality_ids as well")
        return torch.zeros(embeds.shape[:2], dtype=torch.int64, device=embeds.device)


class MixtureOfMambaForCausalLM(MixtureOfMambaPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The backbone with an output map over the joint vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "backbone.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: MixtureOfMambaConfig) -> None:
        super().__init__(config)
        self.backbone = MixtureOfMambaModel(config)
        self.lm_head = nn.Linear(
            config.hidden_size, self.backbone.embeddings.num_embeddings, bias=False
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        modality_ids: Tensor | None = None,
        use_cache: bool | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step of `generate`.

        Raises:
            ValueError: prompts padded on the right, after which nothing can continue them.
        """
        if is_first_iteration and attention_mask is not None and not attention_mask[:, -1].all():
            raise ValueError("prompts are padded on the right; pad them on the left to generate")
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            attention_mask=attention_mask,  # type: ignore[arg-type]
            use_cache=use_cache,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if use_cache and not is_first_iteration:
            inputs["attention_mask"] = None  # the state has left the padding behind
        if modality_ids is not None and inputs["input_ids"] is not None:
            new = self.backbone.modalities_of(input_ids[:, modality_ids.shape[1] :])
            known = torch.cat([modality_ids, new], 1)
            inputs["modality_ids"] = known[:, known.shape[1] - inputs["input_ids"].shape[1] :]
        elif modality_ids is not None:
            inputs["modality_ids"] = modality_ids
        return inputs

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_params: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits over the joint vocabulary and, with labels, the mean cross entropy.

        Args:
            labels: (b, t) joint token ids, shifted inside; -100 is not counted, nor is padding,
                nor the first token of a document.
            logits_to_keep: only the last so many positions; 0 for all.
            The rest: see MixtureOfMambaModel.forward.
        """
        hidden = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            modality_ids=modality_ids,
            document_ids=document_ids,
            inputs_embeds=inputs_embeds,
            cache_params=cache_params,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last = hidden.last_hidden_state[:, keep]
        logits = self.lm_head(last.to(self.lm_head.weight.dtype)).float()
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, attention_mask, hidden.documents, **kwargs)
        output = CausalLMOutput(loss, logits, hidden.cache_params, hidden.hidden_states)
        plain = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if plain else output

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None,
        documents: Tensor | None,
        **kwargs: Any,
    ) -> Tensor:
        if logits.shape[:2] != labels.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, but the logits "
                f"{tuple(logits.shape[:2])}; give one label per position and keep all logits"
            )
        labels = labels.clone()
        if attention_mask is not None:
            labels[attention_mask[:, -labels.shape[1] :] == 0] = -100
        if documents is not None:
            labels[:, 1:][documents[:, 1:] != documents[:, :-1]] = -100
        if self.config.vocabulary == "separate":
            logits = self._own_vocabulary(logits, labels)
        return self.loss_function(
            logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
        )

    def _own_vocabulary(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits outside the vocabulary of the next token's modality set to -inf."""
        following = labels.roll(-1, 1).clamp(min=0)
        ranges = torch.tensor(self.backbone._ranges, device=logits.device)
        ranges = ranges[self.backbone.modalities_of(following)]
        column = torch.arange(logits.shape[-1], device=logits.device)
        outside = (column < ranges[..., :1]) | (column >= ranges[..., 1:])
        return logits.masked_fill(outside, -torch.inf)
