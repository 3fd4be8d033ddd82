"""What the networks share that read no W: a layer is known by its depth and kind alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lofa.hypernets.config import AdapterConfig
from lofa.hypernets.heads import make_head
from lofa.hypernets.layers import FrozenLayer, id_embeddings, layer_ids

__all__ = ["WeightFreeNet"]


class WeightFreeNet(nn.Module):
    """Embedding of the layers, projection of the condition, norm and head. Raises ValueError on a head in no table."""

    Config = AdapterConfig

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.depth_embed, self.kind_embed = id_embeddings(config)
        self.context_proj = nn.Linear(config.context_width, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.head = make_head(config, config.alpha_init)

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """One token for each layer (l, 1, d) (ValueError: an id that is out of range)."""
        depth, kind = layer_ids(layers, self.config.num_depths, self.config.num_kinds)
        return (self.depth_embed(depth) + self.kind_embed(kind))[:, None]

    def begin(self, tokens: Tensor) -> Tensor:
        """Tokens (L, 1, d) -> (1, L, 1, d)."""
        return tokens[None]
