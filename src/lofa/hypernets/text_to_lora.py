"""The adapter from the condition alone, without a look at W: Text-to-LoRA's MLP (Charakorn et al. 2025, size M).

    h = [mean of the condition's tokens | embedding of the layer],   h <- h + MLP(LN h),   A, B, alpha = head(LN h)

Rank, head and start are those of the other hypernetworks, so that the comparison is of what is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.hypernets.blocks import mlp
from lofa.hypernets.config import AdapterConfig
from lofa.hypernets.heads import upcast
from lofa.hypernets.layers import Prepared
from lofa.hypernets.single_stage import SingleStage
from lofa.hypernets.weight_free import WeightFreeNet

__all__ = ["TextToLora", "TextToLoraNet"]


class TextToLoraNet(WeightFreeNet):
    """The MLP; of the values of a trunk it has no use for tiles and heads of attention."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.mix = nn.Linear(2 * config.d_model, config.d_model)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(config.d_model), mlp(config.d_model, config.mlp_ratio))
            for _ in range(config.n_blocks)
        )

    def adapt(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> LoraBatch:
        """Adapters of P prompts: condition (P, N, C) zero padded, lengths (P,)."""
        pooled = context.to(self.context_proj.weight.dtype).sum(1) / lengths[:, None]
        condition = self.context_proj(pooled)[:, None, None].expand(-1, prepared.tokens.shape[1], 1, -1)
        h = self.mix(torch.cat([condition, prepared.tokens.expand_as(condition)], dim=-1))
        for block in self.blocks:
            h = h + block(h)
        A, B, alpha = self.head(self.norm(h), prepared.shape)
        return LoraBatch(upcast(A), upcast(B), upcast(alpha), prepared.layers)


class TextToLora(SingleStage):
    """Part: adapter, an MLP."""

    networks = {"adapter": TextToLoraNet}
