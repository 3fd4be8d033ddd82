"""What all networks share: frozen weights and a condition in, final tokens of every (prompt, layer) out.

One prompt and one layer are one sequence. The condition of a prompt is projected once, and read by all its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.hypernets.blocks import Block
from lofa.hypernets.config import TrunkConfig
from lofa.hypernets.layers import FrozenLayer, Prepared
from lofa.hypernets.parts import NORMALISATIONS, PADDINGS, RECOMPUTATIONS, member
from lofa.hypernets.tiling import TileEmbed, check_weights

__all__ = ["Trunk"]


class Trunk(nn.Module):
    """Tokens of the weights, layer identity, condition, blocks, final norm.

    config: sizes, and the names of the parts without parameters. tiles: the tokenizer of the weights.
    Raises ValueError on a part that is in no table.
    """

    def __init__(self, config: TrunkConfig, tiles: TileEmbed) -> None:
        super().__init__()
        self.config = config
        self.normalise = member(NORMALISATIONS, "normalisation", config.normalisation)
        self.pad = member(PADDINGS, "padding", config.padding)
        self.run = member(RECOMPUTATIONS, "recomputation", config.recomputation)(config.gradient_checkpointing)
        self.tiles = tiles
        self.depth_embed = nn.Embedding(config.num_depths, config.d_model)
        self.kind_embed = nn.Embedding(config.num_kinds, config.d_model)
        for table in (self.depth_embed, self.kind_embed):
            nn.init.trunc_normal_(table.weight, std=0.02)
        self.context_proj = nn.Linear(config.context_width, config.d_model)
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.n_heads, config.mlp_ratio, reads=i >= config.condition_from)
            for i in range(config.n_blocks)
        )
        self.norm = nn.LayerNorm(config.d_model)

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """Tokens `(l, T, d)` of layers of one shape.

        For backward nothing of W is kept but W itself: tiles are cut anew.
        Raises ValueError on shapes and ids that do not fit, on weights that are not finite or have columns of zeros.
        """
        shape = layers[0].shape
        if shape not in self.config.shapes:
            shapes = " or ".join(f"({rows}, {columns})" for rows, columns in self.config.shapes)
            raise ValueError(f"weights must be {shapes}; those of {layers[0].name} are {shape}")
        ids = {"depth": [layer.depth for layer in layers], "kind": [layer.kind for layer in layers]}
        for name, count in {"depth": self.config.num_depths, "kind": self.config.num_kinds}.items():
            least, most = min(ids[name]), max(ids[name])
            if not 0 <= least <= most < count:
                raise ValueError(f"{name} must lie in 0..{count - 1}; got {least}..{most}")
        weights = [layer.weight for layer in layers]
        check_weights(weights, [layer.name for layer in layers])
        if torch.is_grad_enabled():
            tokens: Tensor = checkpoint(self._cut, *weights, use_reentrant=False)
        else:
            tokens = self._cut(*weights)
        depth, kind = (torch.tensor(values, device=tokens.device) for values in ids.values())
        return tokens + (self.depth_embed(depth) + self.kind_embed(kind))[:, None]

    def _cut(self, *weights: Tensor) -> Tensor:
        tokens: Tensor = self.tiles(self.normalise(torch.stack(weights)).to(self.context_proj.weight.dtype))
        return tokens

    def begin(self, tokens: Tensor) -> Tensor:
        """Tokens `(L, T, d)` -> `(1, L, T, d)` at the first reading of the condition: what depends on W alone.

        Compute it once for a backbone and keep it; it holds as long as the parameters do.
        """
        x = tokens[None]
        for block in self.blocks[: self.config.condition_from + 1]:
            x = self.run(block, x, None)
        return x

    def finish(
        self,
        prepared: Prepared,
        context: Tensor,
        lengths: Tensor,
        between: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Final normalised tokens `(P, L, T, d)` of P prompts, for the L layers that were prepared.

        context `(P, N, C)` zero padded, lengths `(P,)`; `between` is given (number, tokens) after each block that reads
        the condition, and may change the tokens. Raises ValueError on shapes that do not fit.
        """
        condition, mask = self.project(context, lengths)
        x, first = prepared.tokens, self.config.condition_from
        for i in range(first, len(self.blocks)):
            x = self.run(self.blocks[i], x, condition, mask, i == first)
            x = between(i, x) if between else x
        normalised: Tensor = self.norm(x)
        return normalised

    def project(self, context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Condition `(P, N, C)`, `lengths (P,)` -> `(P, n, d)`, and its mask `(P, n)` as `CrossAttention` takes it."""
        width = self.config.context_width
        if context.ndim != 3 or context.shape[-1] != width:
            raise ValueError(f"the condition must be (P, N, {width}); got {tuple(context.shape)}")
        if lengths.shape != context.shape[:1]:
            raise ValueError(f"lengths must be ({len(context)},), one a prompt; got {tuple(lengths.shape)}")
        shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
        if not 1 <= shortest <= longest <= context.shape[1]:
            raise ValueError(f"lengths must lie in 1..{context.shape[1]}; got {shortest}..{longest}")
        tokens, mask = self.pad(context.to(self.context_proj.weight.dtype), lengths)
        return self.context_proj(tokens), mask
