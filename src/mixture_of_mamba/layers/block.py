"""One residual block: norm -> mixer -> add."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import Routing
from .config import MambaConfig
from .fused import fused_forward, fused_weights
from .mixer import MambaMixer
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
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mixer = MambaMixer(config)

    def init_weights(
        self, *, seed: int | None = None, name: str = "block", residual_branches: int = 1
    ) -> None:
        """See MambaMixer.init_weights; the norm starts at one."""
        nn.init.ones_(self.norm.weight)
        self.mixer.init_weights(
            seed=seed, name=f"{name}.mixer", residual_branches=residual_branches
        )

    def forward(
        self,
        x: Tensor,
        modality_ids: Tensor | None = None,
        *,
        routing: Routing | None = None,
        document_ids: Tensor | None = None,
        state: MambaState | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, MambaState]:
        """One block on ordinary (b, t, d_model), or on rows in the order of a routing.

        Args:
            x: (b, t, d_model); with `routing`, (r, d_model) in row order, as models call a block.
            modality_ids: (b, t) integers; may be omitted if there is one modality.
            routing: of the batch, made once for all blocks; in place of the ids.
            document_ids: (b, t); convolution and scan restart where they change along t.
            state: what an earlier call returned for the tokens before these.
            return_state: also return the state after these tokens.

        Returns:
            like x; with return_state, a pair of that and the state.

        Raises:
            ValueError: shapes, modality ids, or a state that do not fit; ids beside a routing.
        """
        rows = routing
        if rows is None:
            rows, x = self._to_rows(x, modality_ids, document_ids)
        elif modality_ids is not None or document_ids is not None:
            raise ValueError("give the ids to Routing.build, or to the block, not to both")
        y, after = self._forward_rows(x, rows, state)
        if routing is None:
            y = rows.to_time(y)
        return (y, after) if return_state else y

    def _forward_rows(
        self, x: Tensor, routing: Routing, state: MambaState | None
    ) -> tuple[Tensor, MambaState]:
        weights = fused_weights(self, x, routing, state)
        if weights is None:
            y, after = self.mixer(self.norm(x), routing, state)
            return x + y, after
        assert self.norm.eps is not None
        return fused_forward(weights, x, routing, state, eps=self.norm.eps)

    def _to_rows(
        self, x: Tensor, modality_ids: Tensor | None, document_ids: Tensor | None
    ) -> tuple[Routing, Tensor]:
        """The routing of a batch, and its rows."""
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
        return routing, routing.to_rows(x)
