"""The condition's tokens in the place of W's tiles: the paper's ablation of reading the base weights.

x = project(c) + embedding of the layer   ->   the blocks of the other networks, which read c   ->   head
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.hypernets.blocks import Block
from lofa.hypernets.config import AdapterConfig
from lofa.hypernets.heads import upcast
from lofa.hypernets.layers import Prepared
from lofa.hypernets.parts import RECOMPUTATIONS, member
from lofa.hypernets.single_stage import SingleStage
from lofa.hypernets.weight_free import WeightFreeNet

__all__ = ["PromptTokens", "PromptTokensNet"]


class PromptTokensNet(WeightFreeNet):
    """The trunk's blocks over a prompt's own tokens."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.run = member(RECOMPUTATIONS, "recomputation", config.recomputation)(config.gradient_checkpointing)
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.n_heads, config.mlp_ratio) for _ in range(config.n_blocks)
        )

    def adapt(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> LoraBatch:
        """Adapters of P prompts: condition (P, N, C) zero padded, lengths (P,). Prompts go one by one, unpadded."""
        condition = self.context_proj(context.to(self.context_proj.weight.dtype))
        made = [
            self.head(self._tokens(prepared, condition[i : i + 1, :length]), prepared.shape)
            for i, length in enumerate(lengths.tolist())
        ]
        A, B, alpha = (upcast(torch.cat(of)) for of in zip(*made, strict=True))
        return LoraBatch(A, B, alpha, prepared.layers)

    def _tokens(self, prepared: Prepared, condition: Tensor) -> Tensor:
        """Final tokens (1, L, n, d) of one prompt's condition (1, n, d)."""
        x = prepared.tokens + condition[:, None]
        for block in self.blocks:
            x = self.run(block, x, condition)
        normalised: Tensor = self.norm(x)
        return normalised


class PromptTokens(SingleStage):
    """Part: adapter, which reads no W."""

    networks = {"adapter": PromptTokensNet}
