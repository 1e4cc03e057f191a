"""`generate` with states: inputs of a step, prompts in chunks, continuing from a given state.

A state is of all tokens but the last one drawn. It cannot go back, and it knows neither positions
nor padding; so the inputs of a step are made here, and not by transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from .documents import last_real
from .keywords import CACHE_NAME, one_cache
from .seen import already_seen
from .states import kept_by

__all__ = ["StateGenerationMixin"]

#: Inputs of `forward` with one column per token.
_PER_TOKEN = ("input_ids", "inputs_embeds", "modality_ids", "document_ids", "position_ids")


class StateGenerationMixin(GenerationMixin):  # type: ignore[misc]
    """GenerationMixin for models whose cache is a state."""

    backbone: Any
    device: Any

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As GenerationMixin.generate, which takes the same arguments.

        The cache in its output goes into another call as `cache`, with all tokens so far and more,
        or with new ones alone (which begin with the last one drawn). `cache_params` and
        `past_key_values` mean the same.

        Raises:
            ValueError: a cache together with PEFT's prompt tuning, which works without.
        """
        if (cache := one_cache(None, kwargs)) is not None:
            kwargs[CACHE_NAME] = cache
        # PEFT looks for keys and values, finds none, and puts its prompt in at every step.
        if self._has_learnt_prompt() and (
            cache is not None or kwargs.setdefault("use_cache", False)
        ):
            raise ValueError("PEFT's learnt prompts cannot generate with a state: use_cache=False")
        return super().generate(*args, **kwargs)

    def _has_learnt_prompt(self) -> bool:
        """Whether PEFT's prompt learning has put itself in front of the inputs of each step."""
        owner = getattr(self.prepare_inputs_for_generation, "__self__", self)
        return bool(getattr(getattr(owner, "active_peft_config", None), "is_prompt_learning", 0))

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        modality_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache_params: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step of `generate`.

        Raises:
            ValueError: a prompt of nothing but padding, arguments that do not cover the prompt, or
                a state that does not fit the tokens.
        """
        old = {"cache_params": cache_params, "past_key_values": past_key_values}
        cache = one_cache(cache, old)
        inputs: dict[str, Any] = {"use_cache": use_cache, "cache": cache, **kwargs}
        per_token = {
            "modality_ids": modality_ids,
            "document_ids": document_ids,
            "position_ids": position_ids,
        }
        if is_first_iteration or (use_cache and not kept_by(cache)):
            if not use_cache:
                _check_uncached(attention_mask, position_ids, cache)
            inputs |= _prompt(input_ids, inputs_embeds, attention_mask, per_token, cache)
        elif use_cache:
            # The state has left padding, given modalities and documents behind.
            inputs["input_ids"] = input_ids[:, -(next_sequence_length or 1) :]
        else:
            inputs |= self._whole(input_ids, attention_mask, per_token)
        device = self.device
        if device.type == "meta":
            return inputs
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}

    def _whole(
        self, ids: Tensor, attention_mask: Tensor | None, given: dict[str, Tensor | None]
    ) -> dict[str, Any]:
        """Prompt and drawn tokens again: these have the modality of their ids, and continue the
        document of the prompt."""
        inputs = {"input_ids": ids, "attention_mask": attention_mask}
        if (modality := given["modality_ids"]) is not None:
            new = self.backbone.modalities_of(ids[:, modality.shape[1] :])
            inputs["modality_ids"] = torch.cat([modality, new.to(modality)], 1)
        if (documents := given["document_ids"]) is not None:
            length = documents.shape[1]
            last = documents[:, -1:]
            if attention_mask is not None:
                last = documents.gather(1, last_real(attention_mask[:, :length] != 0)[:, -1:])
            more = last.expand(-1, ids.shape[1] - length)
            inputs["document_ids"] = torch.cat([documents, more], 1)
        inputs["position_ids"] = given["position_ids"]  # which transformers counts on
        return inputs

    def _prefill(
        self,
        input_ids: Any,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        is_first_iteration: bool = True,
    ) -> Any:
        """The prompt, `prefill_chunk_size` tokens at a time where it is set."""
        size = generation_config.prefill_chunk_size
        if size is None:
            return super()._prefill(  # type: ignore[misc]
                input_ids, generation_config, model_kwargs, is_first_iteration=is_first_iteration
            )
        inputs = self.prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **model_kwargs
        )
        if inputs["cache"] is None:
            raise ValueError("prefill_chunk_size needs a cache: use_cache=True")
        length = next(v.shape[1] for k in _PER_TOKEN[:2] if (v := inputs.get(k)) is not None)
        mask, output = inputs.get("attention_mask"), None
        for start in range(0, length, size):
            stop = min(start + size, length)
            part = {k: v[:, start:stop] for k in _PER_TOKEN if (v := inputs.get(k)) is not None}
            if mask is not None:
                part["attention_mask"] = mask[:, : mask.shape[1] - length + stop]
            output = self(**inputs | part, return_dict=True)  # type: ignore[operator]
        return output

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """None: positions that the caller did not give would say where documents start."""

    def _get_logits_processor(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        """As GenerationMixin's, and whatever cannot come right is refused before the first token.

        Raises:
            ValueError: guidance with beams or without a prompt for its other branch; the state of
                a beam search.
        """
        beams = (generation_config.num_beams or 1) > 1
        guided = generation_config.guidance_scale not in (None, 1)
        given = kwargs.get("model_kwargs") or {}
        negative = kwargs.get("negative_prompt_ids")
        if guided and beams:
            raise ValueError(
                "guidance_scale with num_beams > 1: transformers' unconditional branch does not "
                "follow the beams; use one of the two"
            )
        if guided and negative is None and given.get("inputs_embeds") is not None:
            raise ValueError(
                "guidance_scale with inputs_embeds needs negative_prompt_ids: there is no last "
                "token to start the unconditional branch from"
            )
        if guided and negative is not None and (generation_config.num_return_sequences or 1) > 1:
            for name in ("negative_prompt_ids", "negative_prompt_attention_mask"):
                if kwargs.get(name) is not None:
                    kwargs[name] = kwargs[name].repeat_interleave(
                        generation_config.num_return_sequences, 0
                    )
        cache = given.get(CACHE_NAME)
        if getattr(cache, "of_beams", False) and kept_by(cache):
            raise ValueError(
                "the state is of a beam search, whose rows are not those of the sequences that "
                "it returned; prefill these again"
            )
        if beams and cache is not None:
            cache.of_beams = True
        return super()._get_logits_processor(generation_config, *args, **kwargs)  # type: ignore[misc]


def _check_uncached(attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any) -> None:
    """Raise for what every step would have to go back to, without a state to do so."""
    if kept_by(cache):
        raise ValueError("a cache was given to continue from, which needs use_cache=True")
    if (
        position_ids is not None
        and attention_mask is not None
        and not bool((attention_mask[:, -1] != 0).all())
    ):
        raise ValueError(
            "position_ids of prompts that are padded on the right cannot be continued without a "
            "cache; pad on the left, or leave out use_cache=False"
        )


def _prompt(
    ids: Tensor,
    embeds: Tensor | None,
    attention_mask: Tensor | None,
    given: dict[str, Tensor | None],
    cache: Any,
) -> dict[str, Any]:
    """The tokens of a prompt that a state, if there is one, has not seen."""
    if embeds is not None:
        inputs, length = {"inputs_embeds": embeds}, embeds.shape[1]
    else:
        ids = ids[:, already_seen(cache, ids, attention_mask) :]
        inputs, length = {"input_ids": ids}, ids.shape[1]
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
        if not kept_by(cache) and not bool((attention_mask != 0).any(1).all()):
            raise ValueError("a prompt is nothing but padding; give each at least one token")
    for name, value in given.items():
        if value is None:
            continue
        if value.shape[1] < length:
            raise ValueError(
                f"{name} covers {value.shape[1]} tokens, but the prompt has {length} new ones"
            )
        inputs[name] = value[:, value.shape[1] - length :]
    return inputs
