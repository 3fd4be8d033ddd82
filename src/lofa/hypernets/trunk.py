"""What all networks share: frozen weights and a condition in, final tokens of every (prompt, layer) out.

One prompt and one layer are one sequence. The condition of a prompt is projected once, and read by all its layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.hypernets.blocks import Block
from lofa.hypernets.config import TrunkConfig
from lofa.hypernets.layers import FrozenLayer, id_embeddings, layer_ids
from lofa.hypernets.parts import NORMALISATIONS, PADDINGS, RECOMPUTATIONS, Recomputation, member
from lofa.hypernets.tiling import TileEmbed

__all__ = ["Trunk", "TrunkBlocks"]


class TrunkBlocks(nn.Module):
    """Tokens of the weights through the blocks: first what depends on W alone, then what reads the condition."""

    run: Recomputation
    blocks: nn.ModuleList
    norm: nn.LayerNorm
    first: int = 0
    """the block that reads the condition first"""

    def begin(self, tokens: Tensor) -> Tensor:
        """Tokens `(L, T, d)` -> `(1, L, T, d)` at the first reading of the condition: what depends on W alone.

        Compute it once for a backbone and keep it; it holds as long as the parameters do.
        """
        x = tokens[None]
        for block in self.blocks[: self.first + 1]:
            x = self.run(block, x, None)
        return x

    def finish(
        self,
        tokens: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        reads: nn.ModuleDict | None = None,
        response: Tensor | None = None,
    ) -> Tensor:
        """Final normalised tokens `(P, L, T, d)` of P prompts.

        tokens `(1 or P, L, T, d)`: what `begin` gave; condition `(P, n, d)`, mask `(P, n)` as `Attention` takes it;
        reads: number of a block that reads the condition -> what reads `response (P, L, T', d')` after it.
        """
        x = tokens
        for i in range(self.first, len(self.blocks)):
            x = self.run(self.blocks[i], x, condition, mask, i == self.first)
            if reads is not None and response is not None and str(i) in reads:
                x = self.run(reads[str(i)], x, response.to(x.dtype))
        normalised: Tensor = self.norm(x)
        return normalised


class Trunk(TrunkBlocks):
    """Tokens of the weights, layer identity, condition, blocks, final norm.

    config: sizes, and the names of the parts without parameters. tiles: the tokenizer of the weights.
    Raises ValueError on a part that is in no table.
    """

    def __init__(self, config: TrunkConfig, tiles: TileEmbed) -> None:
        super().__init__()
        self.config = config
        self.first = config.condition_from
        self.normalise = member(NORMALISATIONS, "normalisation", config.normalisation)
        self.pad = member(PADDINGS, "padding", config.padding)
        self.run = member(RECOMPUTATIONS, "recomputation", config.recomputation)(config.gradient_checkpointing)
        self.tiles = tiles
        self.depth_embed, self.kind_embed = id_embeddings(config)
        self.context_proj = nn.Linear(config.context_width, config.d_model)
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.n_heads, config.mlp_ratio, reads=i >= config.condition_from)
            for i in range(config.n_blocks)
        )
        self.norm = nn.LayerNorm(config.d_model)

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """Tokens `(l, T, d)` of layers of one shape.

        For backward nothing of W is kept but W itself: tiles are cut anew.
        Raises ValueError on shapes and ids that do not fit.
        """
        shape = layers[0].shape
        if shape not in self.config.shapes:
            shapes = " or ".join(f"({rows}, {columns})" for rows, columns in self.config.shapes)
            raise ValueError(f"weights must be {shapes}; those of {layers[0].name} are {shape}")
        depth, kind = layer_ids(layers, self.config.num_depths, self.config.num_kinds)
        weights = [layer.weight for layer in layers]
        if torch.is_grad_enabled():
            tokens: Tensor = checkpoint(self._cut, *weights, use_reentrant=False)
        else:
            tokens = self._cut(*weights)
        return tokens + (self.depth_embed(depth) + self.kind_embed(kind))[:, None]

    def _cut(self, *weights: Tensor) -> Tensor:
        tokens: Tensor = self.tiles(self.normalise(torch.stack(weights)).to(self.context_proj.weight.dtype))
        return tokens

    def project(self, context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Condition `(P, N, C)` zero padded, lengths `(P,)` -> what `finish` takes; ValueError where they don't fit."""
        width = self.config.context_width
        if context.ndim != 3 or context.shape[-1] != width:
            raise ValueError(f"the condition must be (P, N, {width}); got {tuple(context.shape)}")
        shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
        if not 1 <= shortest <= longest <= context.shape[1]:
            raise ValueError(f"lengths must lie in 1..{context.shape[1]}; got {shortest}..{longest}")
        tokens, mask = self.pad(context.to(self.context_proj.weight.dtype), lengths)
        return self.context_proj(tokens), mask
