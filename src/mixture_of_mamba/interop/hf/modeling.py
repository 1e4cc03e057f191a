"""Mixture-of-Mamba over tokens as transformers' models: cache, generate(), Trainer, adapters.

Token ids are joint: the vocabulary of each modality follows that of the one before it. The modality
of a token is therefore known from its id, and `modality_ids` may be omitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ...layers import MambaBlock, MambaState
from ...ops import Routing
from .base import MixtureOfMambaPreTrainedModel
from .configuration import MixtureOfMambaConfig
from .documents import document_starts, last_document, last_real, packed_documents
from .generation import StateGenerationMixin
from .keywords import one_cache, refuse_unknown, without_effect
from .loss import counted_labels, own_vocabulary, shifted, warn_of_uncounted
from .outputs import BackboneOutput, CausalLMOutput
from .padding import fill_padding, real_tokens, run_without_padding
from .seen import add_seen
from .states import kept_by, read_states, write_states

__all__ = ["MixtureOfMambaForCausalLM", "MixtureOfMambaModel"]

#: What `forward` of the model with a head hands on to the loss.
_LOSS_KEYWORDS = ("num_items_in_batch", "shift_labels", "ignore_index")


class MixtureOfMambaModel(MixtureOfMambaPreTrainedModel):
    """Embedding -> blocks -> norm."""

    def __init__(self, config: MixtureOfMambaConfig) -> None:
        super().__init__(config)
        self._plain = plain = config.to_model_config()
        self.embeddings = nn.Embedding(plain.vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(
            MambaBlock(plain.block) for _ in range(config.num_hidden_layers)
        )
        self.norm_f = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing, self.recompute_every = False, 1
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value  # type: ignore[assignment]

    def modalities_of(self, input_ids: Tensor) -> Tensor:
        """(b, t) modality of joint token ids: the range of the vocabulary that each lies in."""
        ends = torch.tensor(
            [high for _, high in self._plain.vocabulary_ranges], device=input_ids.device
        )
        return torch.bucketize(input_ids.contiguous(), ends, right=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Hidden states of the tokens.

        Args:
            input_ids: (b, t) joint token ids; or `inputs_embeds` (b, t, d) with modality_ids.
            attention_mask: (b, t) of 0 and 1, or (b, s) with the s - t columns before these;
                padding is passed over, wherever it stands.
            modality_ids: (b, t); by default that of each token id.
            document_ids: (b, t) of packed documents; the state is reset where they change.
            cache: what an earlier call returned for the tokens before these; any number of tokens
                may follow. It is updated. `cache_params` and `past_key_values` mean the same.
            position_ids: (b, t); a position that does not follow the one before it starts a
                document, as does position 0 behind a cache. They mean nothing else.
            kwargs: `seq_idx` or `cu_seq_lens_q` of packed rows.

        Raises:
            ValueError: both or neither of input_ids and inputs_embeds, shapes that do not fit, or
                a state of another model or batch.
            TypeError: a keyword that nothing here reads.
        """
        cache = one_cache(cache, kwargs)
        without_effect(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        given = inputs_embeds if input_ids is None else input_ids
        assert given is not None
        shape = given.shape[:2]
        if not shape[1]:
            raise ValueError(f"there are no tokens: the input has shape {tuple(given.shape)}")
        packed = packed_documents(kwargs, shape)
        refuse_unknown(kwargs, self.forward)
        document_ids = packed if document_ids is None else document_ids
        real = real_tokens(attention_mask, shape)
        x, modality_ids = self._embed(input_ids, inputs_embeds, modality_ids, real)
        states = read_states(cache, self._plain, shape[0])
        default = self.config.use_cache and not self.training
        if cache is None and (default if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        kept = kept_by(cache)
        starts = document_starts(
            shape,
            real=real,
            document_ids=document_ids,
            position_ids=position_ids,
            before=kept.get("document"),
            continues=states is not None,
        )
        default = self.config.output_hidden_states
        every = bool(default if output_hidden_states is None else output_hidden_states)

        def run(
            x: Tensor, modality: Tensor, starts: Tensor | None, states: Sequence[MambaState] | None
        ) -> tuple[list[Tensor], list[MambaState]]:
            return self._blocks(x, modality, starts, states, every=every)

        if real is None:
            tensors, after = run(x, modality_ids, starts, states)
        else:
            tensors, after = run_without_padding(run, x, modality_ids, starts, states, real)
            if "hidden" in kept:
                index = last_real(real)
                tensors[-1] = fill_padding(tensors[-1], index, kept["hidden"])
        if cache is not None:
            kept["hidden"] = tensors[-1][:, -1].clone()
            if input_ids is not None:
                kept |= add_seen(kept, input_ids)
            if document_ids is not None:
                kept["document"] = last_document(document_ids.expand(shape), real, kept)
            write_states(cache, after, self._plain, kept)
        documents = None if starts is None else starts.long().cumsum(1)
        output = BackboneOutput(tensors[-1], cache, tuple(tensors) if every else None, documents)
        plain = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if plain else output

    def _embed(
        self,
        input_ids: Tensor | None,
        embeds: Tensor | None,
        modality_ids: Tensor | None,
        real: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """x (b, t, d) and modality (b, t); at padding zero, whatever ids stand there."""
        if modality_ids is None:
            modality_ids = self._modalities(input_ids, embeds)
        if input_ids is not None:
            ids = input_ids if real is None else input_ids.masked_fill(~real, 0)
            x = self.embeddings(ids)
        else:
            assert embeds is not None
            x = embeds
        if modality_ids.shape != x.shape[:2]:
            raise ValueError(
                f"modality_ids has shape {tuple(modality_ids.shape)}, but there are "
                f"{tuple(x.shape[:2])} tokens; give the modality of each"
            )
        if real is not None:
            modality_ids = modality_ids.masked_fill(~real, 0)
            x = x.masked_fill(~real[..., None], 0)
        return x, modality_ids

    def _blocks(
        self,
        x: Tensor,
        modality_ids: Tensor,
        starts: Tensor | None,
        states: Sequence[MambaState] | None,
        *,
        every: bool,
    ) -> tuple[list[Tensor], list[MambaState]]:
        """All blocks and the norm on rows without padding.

        Args:
            x: (b, t, d).
            modality_ids: (b, t).
            starts: (b, t) bool, first tokens of documents.
            states: of every block, before these tokens.
            every: also give what enters each block.

        Returns:
            (b, t, d) before each block where asked for, and after the norm; the states after.
        """
        routing = Routing.build(modality_ids, len(self.config.modalities))
        routing = replace(routing, resets=starts)
        rows, after, seen = routing.to_rows(x), [], []
        for i, block in enumerate(self.layers):
            if every:
                seen.append(routing.to_time(rows))
            before = None if states is None else states[i]
            call = partial(block, routing=routing, state=before, return_state=True)
            if self.gradient_checkpointing and self.training and i % self.recompute_every == 0:
                rows, state = self._gradient_checkpointing_func(call, rows)
            else:
                rows, state = call(rows)
            after.append(state)
        return [*seen, routing.to_time(self.norm_f(rows))], after

    def _modalities(self, input_ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        if input_ids is not None:
            return self.modalities_of(input_ids)
        assert embeds is not None
        if len(self.config.modalities) > 1:
            raise ValueError("inputs_embeds do not tell their modality; give modality_ids as well")
        return torch.zeros(embeds.shape[:2], dtype=torch.int64, device=embeds.device)


class MixtureOfMambaForCausalLM(StateGenerationMixin, MixtureOfMambaPreTrainedModel):
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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        modality_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits over the joint vocabulary and, with labels, the mean cross entropy.

        Args:
            labels: (b, t) joint token ids, shifted inside; -100 is not counted, nor is padding,
                nor the first token of a row or document.
            logits_to_keep: only the last so many positions; 0 for all.
            kwargs: `num_items_in_batch`, by which the sum of the losses is divided instead of by
                the number of labels that count; `shift_labels` (b, t), the label of the token
                after each position; `ignore_index`.
            The rest: see MixtureOfMambaModel.forward.
        """
        for_loss = {k: kwargs.pop(k) for k in _LOSS_KEYWORDS if k in kwargs}
        cache = one_cache(cache, kwargs)
        without_effect(kwargs)
        given = inputs_embeds if input_ids is None else input_ids
        packed = None if given is None else packed_documents(kwargs, given.shape[:2])
        refuse_unknown(kwargs, self.forward)
        hidden = self.backbone(
            input_ids,
            attention_mask=attention_mask,
            modality_ids=modality_ids,
            document_ids=packed if document_ids is None else document_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            position_ids=position_ids,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last = hidden.last_hidden_state[:, keep]
        logits = self.lm_head(last.to(self.lm_head.weight.dtype))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = None
        if labels is not None:
            real = real_tokens(attention_mask, labels.shape)
            loss = self._loss(logits, labels, real, hidden.documents, **for_loss)
        elif for_loss.get("num_items_in_batch") is not None and self.config.vocabulary != "shared":
            raise ValueError(
                "the loss is to be taken outside the model (label_smoothing_factor or "
                "compute_loss_func of the Trainer), which does not know that each modality has "
                "its own softmax; use vocabulary='shared', or give labels to the model"
            )
        output = CausalLMOutput(loss, logits, hidden.cache, hidden.hidden_states)
        plain = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if plain else output

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        real: Tensor | None,
        documents: Tensor | None,
        *,
        shift_labels: Tensor | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> Tensor:
        if logits.shape[:2] != labels.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, but the logits "
                f"{tuple(logits.shape[:2])}; give one label per position and keep all logits"
            )
        labels = labels.masked_fill(labels == ignore_index, -100)
        counted = counted_labels(real, documents, labels)
        # Elsewhere the question would make the host wait.
        known = labels.device.type == "cpu" and not torch.compiler.is_compiling()
        if known and "num_items_in_batch" in kwargs:
            warn_of_uncounted(labels, counted)
        labels = labels.masked_fill(~counted, -100)
        targets = shifted(labels)
        if shift_labels is not None:
            following = torch.nn.functional.pad(counted[:, 1:], (0, 1), value=True)
            targets = shift_labels.masked_fill(~following | (shift_labels == ignore_index), -100)
            kwargs["shift_labels"] = targets
        if self.config.vocabulary == "separate":
            ranges = torch.tensor(self.backbone._plain.vocabulary_ranges, device=logits.device)
            logits = own_vocabulary(logits, targets, ranges)
        return self.loss_function(
            logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
        )
