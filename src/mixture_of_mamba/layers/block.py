"""One residual block: norm -> mixer -> add."""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import Tensor, nn

from ..ops import Routing
from .config import MambaConfig
from .fused import fused_forward
from .mixer import MambaMixer
from .norm import RMSNorm
from .state import MambaState

__all__ = ["MambaBlock"]


class MambaBlock(nn.Module):
    """y = x + mixer(norm(x)), with each token served by the projections of its own modality.

    Example:
        >>> block = MambaBlock(MambaConfig(d_model=64, n_modalities=2))
        >>> y = block(x, modality_ids)  # x (b, t, 64), modality_ids (b, t) in {0, 1}
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.mixer = MambaMixer(config)

    def init_weights(
        self, *, seed: int | None = None, name: str = "block", residual_branches: int = 1
    ) -> None:
        """See MambaMixer.init_weights; the norm starts at one."""
        nn.init.ones_(self.norm.weight)
        self.mixer.init_weights(
            seed=seed, name=f"{name}.mixer", residual_branches=residual_branches
        )

    @overload
    def forward(
        self,
        x: Tensor,
        modality_ids: Tensor | None = None,
        *,
        document_ids: Tensor | None = None,
        state: MambaState | None = None,
        return_state: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        modality_ids: Tensor | None = None,
        *,
        document_ids: Tensor | None = None,
        state: MambaState | None = None,
        return_state: Literal[True],
    ) -> tuple[Tensor, MambaState]: ...

    def forward(
        self,
        x: Tensor,
        modality_ids: Tensor | None = None,
        *,
        document_ids: Tensor | None = None,
        state: MambaState | None = None,
        return_state: bool = False,
    ) -> Any:
        """One block on ordinary (b, t, d_model).

        Args:
            x: (b, t, d_model).
            modality_ids: (b, t) integers; may be left out where there is one modality.
            document_ids: (b, t); convolution and scan start anew where they change along t.
            state: what an earlier call returned for the tokens before these.
            return_state: also return the state after these tokens.

        Raises:
            ValueError: shapes, modality ids, or a state that do not fit.
        """
        if x.ndim != 3 or x.shape[-1] != self.config.d_model:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; (batch, time, {self.config.d_model}) is needed"
            )
        if modality_ids is None:
            if self.config.n_modalities > 1:
                raise ValueError(
                    f"this block has {self.config.n_modalities} modalities; give modality_ids "
                    "(batch, time), the modality of each token"
                )
            modality_ids = x.new_zeros(x.shape[:2]).long()
        if modality_ids.shape != x.shape[:2]:
            raise ValueError(
                f"modality_ids has shape {tuple(modality_ids.shape)}, but x has "
                f"{tuple(x.shape[:2])} tokens; give one modality per token"
            )
        routing = Routing.build(modality_ids, self.config.n_modalities, document_ids)
        y, after = self.forward_rows(routing.to_rows(x), routing, state)
        y = routing.to_time(y)
        return (y, after) if return_state else y

    def forward_rows(
        self, x: Tensor, routing: Routing, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        """The same on (r, d_model) rows in the routing's order, as models call it."""
        if (fused := fused_forward(self, x, routing, state)) is not None:
            return fused
        y, after = self.mixer(self.norm(x), routing, state)
        return x + y, after
