"""The part both hypernetworks share: frozen weights and a condition in, final tokens of every (prompt, layer) out.

One prompt and one layer are one sequence. The condition of a prompt is projected once, and read by all its layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lofa.hypernets.blocks import Block, run_block
from lofa.hypernets.tiling import TileEmbed, check_weights, unit_rms

__all__ = ["Prepared", "Trunk"]


@dataclass(frozen=True)
class Prepared:
    """What a network made of the frozen weights of L layers of one shape, before any prompt."""

    tokens: Tensor
    """(1, L, T, d)"""
    shape: tuple[int, int]
    """(out, in) of the layers"""

    def __getitem__(self, layers: Tensor | slice) -> Prepared:
        """Some of the layers."""
        return Prepared(self.tokens[:, layers], self.shape)


class Trunk(nn.Module):
    """Tiles, places, layer identity, condition, blocks, final norm.

    shapes: (out, in) of the adapted layers, each once. patch_size: side that tiles are to have, nearly: of each axis
    the divisor nearest to it is taken.
    num_depths, num_kinds: how many values `depth` and `kind` take. context_width: features C of a condition token.
    condition_from: the first block (from 0) that reads the condition; all before depends on the weights alone.
    gradient_checkpointing: blocks are computed a second time in backward instead of being kept.
    Raises ValueError where sizes contradict each other.
    """

    def __init__(
        self,
        *,
        shapes: Sequence[Sequence[int]],
        num_depths: int,
        num_kinds: int,
        context_width: int,
        patch_size: int,
        d_model: int,
        n_heads: int,
        n_blocks: int,
        mlp_ratio: float,
        lora_rank: int,
        condition_from: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.shapes = tuple((int(rows), int(columns)) for rows, columns in shapes)
        if not self.shapes or len(set(self.shapes)) != len(self.shapes):
            raise ValueError(f"shapes must name each shape (out, in) once, and at least one; got {self.shapes}")
        sizes = {
            "patch_size": patch_size,
            "d_model": d_model,
            "n_heads": n_heads,
            "lora_rank": lora_rank,
            "mlp_ratio * d_model": mlp_ratio * d_model,
        }
        for name, size in sizes.items():
            if not 1 <= size < math.inf:
                raise ValueError(f"{name} must be at least 1; got {size}")
        if d_model % n_heads:
            raise ValueError(f"n_heads {n_heads} does not divide d_model {d_model}")
        if not 0 <= condition_from < n_blocks:
            raise ValueError(f"condition_from is {condition_from}, but blocks are numbered 0..{n_blocks - 1}")
        self._config: dict[str, Any] = {
            "shapes": [list(shape) for shape in self.shapes],
            "num_depths": num_depths,
            "num_kinds": num_kinds,
            "context_width": context_width,
            "patch_size": patch_size,
            "d_model": d_model,
            "n_heads": n_heads,
            "n_blocks": n_blocks,
            "mlp_ratio": mlp_ratio,
            "lora_rank": lora_rank,
            "condition_from": condition_from,
            "gradient_checkpointing": gradient_checkpointing,
        }
        self.context_width = context_width
        self.condition_from = condition_from
        self.gradient_checkpointing = gradient_checkpointing
        self.tiles = TileEmbed(self.shapes, patch_size, d_model)
        self.depth_embed = nn.Embedding(num_depths, d_model)
        self.kind_embed = nn.Embedding(num_kinds, d_model)
        for table in (self.depth_embed, self.kind_embed):
            nn.init.trunc_normal_(table.weight, std=0.02)
        self.context_proj = nn.Linear(context_width, d_model)
        self.blocks = nn.ModuleList(
            Block(d_model, n_heads, mlp_ratio, reads=i >= condition_from) for i in range(n_blocks)
        )
        self.norm = nn.LayerNorm(d_model)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor values, fit for json."""
        return dict(self._config)

    def units(self) -> list[nn.Module]:
        """The modules to shard one by one."""
        return list(self.blocks)

    def prepare(self, weights: Tensor, depth: Tensor, kind: Tensor) -> Prepared:
        """What depends on the frozen weights alone, up to the first reading of the condition.

        weights `(L, out, in)` of one shape, depth `(L,)`, kind `(L,)`. Compute it once for a backbone and keep it; it
        holds as long as the parameters do.
        Raises ValueError on shapes and ids that do not fit, on weights that are not finite or have columns of zeros.
        """
        shape = tuple(weights.shape[1:])
        if weights.ndim != 3 or shape not in self.shapes:
            shapes = " or ".join(f"(L, {rows}, {columns})" for rows, columns in self.shapes)
            raise ValueError(f"weights must be {shapes}; got {tuple(weights.shape)}")
        for name, ids in {"depth": depth, "kind": kind}.items():
            if ids.shape != weights.shape[:1]:
                raise ValueError(f"{name} must be ({len(weights)},), one a layer; got {tuple(ids.shape)}")
            known_ids = self._config[f"num_{name}s"]
            least, most = torch.stack([ids.min(), ids.max()]).tolist()
            if not 0 <= least <= most < known_ids:
                raise ValueError(f"{name} must lie in 0..{known_ids - 1}; got {least}..{most}")
        check_weights(weights)
        tokens = self.tiles(self.normalise(weights).to(self.context_proj.weight.dtype))
        x = (tokens + (self.depth_embed(depth) + self.kind_embed(kind))[:, None])[None]
        for block in self.blocks[: self.condition_from + 1]:
            x = self.run(block, x, None)
        return Prepared(x, (shape[0], shape[1]))

    def finish(
        self,
        prepared: Prepared,
        context: Tensor,
        lengths: Tensor,
        between: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Final normalised tokens `(P, L, T, d)` of P prompts, from what `prepare` gave for the L layers.

        context `(P, N, C)` zero padded, lengths `(P,)`; `between` is given (number, tokens) after each block that reads
        the condition, and may change the tokens. Raises ValueError on shapes that do not fit.
        """
        condition, mask = self.project(context, lengths)
        x = prepared.tokens
        for i in range(self.condition_from, len(self.blocks)):
            x = self.run(self.blocks[i], x, condition, mask, i == self.condition_from)
            x = between(i, x) if between else x
        normalised: Tensor = self.norm(x)
        return normalised

    def project(self, context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Condition `(P, N, C)`, `lengths (P,)` -> `(P, n, d)` cut to the longest prompt; which of it is real `(P, n)`.

        None instead of the latter says that all of it is, which lets attention take its fastest way.
        """
        if context.ndim != 3 or context.shape[-1] != self.context_width:
            raise ValueError(f"the condition must be (P, N, {self.context_width}); got {tuple(context.shape)}")
        if lengths.shape != context.shape[:1]:
            raise ValueError(f"lengths must be ({len(context)},), one a prompt; got {tuple(lengths.shape)}")
        shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
        if not 1 <= shortest <= longest <= context.shape[1]:
            raise ValueError(f"lengths must lie in 1..{context.shape[1]}; got {shortest}..{longest}")
        projected = self.context_proj(context[:, :longest].to(self.context_proj.weight.dtype))
        if shortest == longest:
            return projected, None
        return projected, torch.arange(longest, device=lengths.device) < lengths[:, None]

    @staticmethod
    def normalise(weights: Tensor) -> Tensor:
        """`(L, out, in)` as the tiles are cut from it: every matrix of root-mean-square 1."""
        return unit_rms(weights)

    def run(self, block: nn.Module, *inputs: Tensor | bool | None) -> Tensor:
        """Call a block, checkpointed where the constructor said so."""
        return run_block(block, *inputs, recompute=self.gradient_checkpointing)

    @staticmethod
    def pool(tokens: Tensor) -> Tensor:
        """Final tokens `(P, L, T, d)` -> `(P, L, d)`: the mean over all tiles. There is no [CLS] token."""
        return tokens.mean(2)
