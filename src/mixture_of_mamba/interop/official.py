"""The official release's modules, by constructor, call and state-dict names.

Code written against `MixtureOfMamba.py` and `BaselineDenseMamba.py` of the authors' release runs
with the import changed:

    from mixture_of_mamba.interop.official import BaselineDenseMamba, MixtureOfMamba

It runs on any device, without CUDA extensions. Where the release is defective, these modules
compute what the paper says:

* the step-size bias counts also where `dt_proj` is shared (there, `do_not_split_dt_proj` drops it);
* a token that no mask marks raises (there, it reads uninitialised memory);
* `modality_masks=None` means that every token is of modality 0 (there, it fails);
* decoding works: `step`, `inference_params` and `allocate_inference_cache` (there, `step` is
  missing); the scan state is float32; a call may continue with any number of tokens;
* under autocast the output has the dtype of the matrix products (there, it fails).

Each call sorts the tokens by modality again. A network of many blocks is faster as a
`MultimodalModel`, which sorts once per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..layers import PROJECTIONS, MambaConfig, MambaMixer, MambaState
from ..ops import Routing
from .masks import modality_ids_from
from .official_names import install_official_names

__all__ = ["BaselineDenseMamba", "MixtureOfMamba"]

#: n_modalities where the configuration does not say; the paper's main settings are text and image.
_DEFAULT_MODALITIES = 2


class MixtureOfMamba(MambaMixer):
    """The mixer with one weight per modality in its projections; no norm, no residual.

    Args:
        args: any object with `n_modalities` (2 where it has none) and, optionally,
            `do_not_split_in_proj`, `do_not_split_x_proj`, `do_not_split_dt_proj`,
            `do_not_split_out_proj`.
        d_model: width.
        d_state, d_conv: states per channel, convolution taps.
        expand: inner width / d_model, which is rounded down to a whole width.
        dt_rank: rank of the step-size projection, or "auto": ceil(d_model / 16).
        dt_min, dt_max, dt_init_floor: range of the initial step sizes.
        dt_init: "random" or "constant" initial weight of dt_proj, times `dt_scale`.
        conv_bias, bias: biases of the convolution, and of in_proj and out_proj.
        use_fast_path: accepted; the fastest backend that can serve is always chosen.
        layer_idx: key of this module's state in `inference_params`.
        device, dtype: of the parameters; A_log and D are float32.

    State dict: `local_experts_{in,x,dt,out}_proj.{m}.{weight,bias}` for split projections,
    `{in,x,dt,out}_proj.{weight,bias}` for shared ones, `conv1d.*`, `A_log`, `D`.

    Example:
        >>> mixer = MixtureOfMamba(args, d_model=64)
        >>> y = mixer(hidden_states, modality_masks=masks)  # (b, t, 64), bool (m, b*t)
    """

    def __init__(
        self,
        args: Any,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = MambaConfig(
            d_model=d_model,
            n_modalities=self._experts(args),
            split=self._split(args),
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            dt_rank=None if dt_rank == "auto" else int(dt_rank),
            conv_bias=conv_bias,
            bias=bias,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init_floor=dt_init_floor,
        )
        with torch.device(device if device is not None else torch.get_default_device()):
            super().__init__(config)
        self._init_steps(dt_init, dt_scale)
        for name, parameter in self.named_parameters():
            if dtype is not None and name not in ("A_log", "D"):
                parameter.data = parameter.data.to(dtype)
        self.args = args
        self.n_modalities = int(getattr(args, "n_modalities", _DEFAULT_MODALITIES))
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = config.d_inner, config.rank
        self.use_fast_path, self.layer_idx = use_fast_path, layer_idx
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        assert self.dt_proj.bias is not None
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]
        install_official_names(self)

    @staticmethod
    def _experts(args: Any) -> int:
        return int(getattr(args, "n_modalities", _DEFAULT_MODALITIES))

    @staticmethod
    def _split(args: Any) -> frozenset[str]:
        shared = {p for p in PROJECTIONS if getattr(args, f"do_not_split_{p}", False)}
        return PROJECTIONS - shared

    @torch.no_grad()
    def _init_steps(self, scheme: str, scale: float) -> None:
        """dt_proj's weight, where it differs from MambaMixer's uniform ±dt_rank^-0.5."""
        if scheme == "constant":
            self.dt_proj.weight.fill_(self.config.rank**-0.5 * scale)
        elif scheme == "random":
            self.dt_proj.weight.mul_(scale)
        else:
            raise NotImplementedError(f"dt_init is {scheme!r}; choose 'random' or 'constant'")

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        modality_masks: Tensor | Sequence[Tensor] | None = None,
        inference_params: Any = None,
    ) -> Tensor:
        """(b, t, d_model) -> the same.

        Args:
            hidden_states: (b, t, d_model).
            modality_masks: bool (m, b*t), a list of m rows, or int ids (b, t); see
                `interop.masks`. None: every token is of modality 0.
            inference_params: an object with `seqlen_offset` and `key_value_memory_dict`, as in
                mamba_ssm. At offset 0 the tokens are a prompt; at a larger one they continue it.

        Raises:
            ValueError: shapes that do not fit, tokens of no modality, a cache of another batch.
        """
        if inference_params is None:
            return self._mix(hidden_states, modality_masks, None)[0]
        caches = self._get_states_from_cache(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset == 0:
            for cache in caches:
                cache.zero_()
        return self.step(hidden_states, *caches, modality_masks)[0]

    def step(
        self,
        hidden_states: Tensor,
        conv_state: Tensor,
        ssm_state: Tensor,
        modality_masks: Tensor | Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Continue from a state by one or more tokens; both states are updated in place.

        Args:
            hidden_states: (b, t, d_model), usually t = 1.
            conv_state: (b, d_inner, d_conv) last inputs of the convolution; entry 0 is never read.
            ssm_state: (b, d_inner, d_state).

        Returns:
            (b, t, d_model), conv_state, ssm_state.
        """
        before = MambaState(
            conv_state[..., 1:].transpose(1, 2).clone(), ssm_state.to(self._state_dtype, copy=True)
        )
        out, after = self._mix(hidden_states, modality_masks, before)
        with torch.no_grad():
            conv_state[..., 1:].copy_(after.conv.transpose(1, 2))
            ssm_state.copy_(after.ssm)
        return out, conv_state, ssm_state

    def _mix(
        self, x: Tensor, masks: Tensor | Sequence[Tensor] | None, state: MambaState | None
    ) -> tuple[Tensor, MambaState]:
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(
                f"hidden_states has shape {tuple(x.shape)}; (batch, time, {self.d_model}) is needed"
            )
        batch, length = x.shape[:2]
        ids = modality_ids_from(
            masks,
            n_modalities=self.config.n_modalities,
            batch=batch,
            length=length,
            device=x.device,
        )
        routing = Routing.build(ids.to(x.device), self.config.n_modalities, check=False)
        y, after = super().forward(routing.to_rows(x), routing, state)
        return routing.to_time(y), after

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Zero states: conv (b, d_inner, d_conv), ssm (b, d_inner, d_state) float32.

        Their size does not depend on `max_seqlen`; `dtype` is the convolution's.
        """
        weight = self.conv1d.weight
        conv_shape = (batch_size, self.d_inner, self.d_conv)
        ssm_shape = (batch_size, self.d_inner, self.d_state)
        return (
            torch.zeros(conv_shape, dtype=dtype or weight.dtype, device=weight.device),
            torch.zeros(ssm_shape, dtype=self._state_dtype, device=weight.device),
        )

    @property
    def _state_dtype(self) -> torch.dtype:
        return torch.float64 if self.A_log.dtype == torch.float64 else torch.float32

    def _get_states_from_cache(self, inference_params: Any, batch: int) -> tuple[Tensor, Tensor]:
        if self.layer_idx is None:
            raise ValueError("layer_idx is None; give each module its own to use inference_params")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch, 1)
        conv, ssm = memory[self.layer_idx]
        if conv.shape[0] != batch:
            raise ValueError(
                f"the cache of layer {self.layer_idx} holds {conv.shape[0]} sequences, but this "
                f"call has {batch}; start a new inference_params for another batch"
            )
        return conv, ssm


class BaselineDenseMamba(MixtureOfMamba):
    """The dense Mamba-1 mixer with the same constructor and call; `modality_masks` is not read.

    State dict: `{in,x,dt,out}_proj.*`, `conv1d.*`, `A_log`, `D`, as in state-spaces/mamba.
    """

    @staticmethod
    def _experts(args: Any) -> int:
        return 1

    @staticmethod
    def _split(args: Any) -> frozenset[str]:
        return frozenset()

    def _mix(
        self, x: Tensor, masks: Tensor | Sequence[Tensor] | None, state: MambaState | None
    ) -> tuple[Tensor, MambaState]:
        return super()._mix(x, None, state)
