"""A weight matrix becomes a sequence: `W (out, in)`, scaled to unit root-mean-square, is cut into tiles, each a token.

Tiles are about `patch x patch`: on each axis the side is the divisor of the axis that is nearest to it. Tokens run row
by row. A token's place is told by a learned vector of its row plus one of its column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["PatchEmbed", "TileEmbed", "tile_side", "unit_rms"]


def unit_rms(weights: Tensor) -> Tensor:
    """Each matrix of `(L, out, in)` divided by the root-mean-square of all its entries, in float32 or wider."""
    weights = weights if weights.dtype == torch.float64 else weights.float()
    return weights * torch.rsqrt(weights.square().mean((1, 2), keepdim=True) + 1e-12)


class PatchEmbed(nn.Module):
    """Tiles of a matrix -> tokens: one convolution with kernel = stride = patch, then RMSNorm."""

    def __init__(self, patch_size: int | tuple[int, int], d_model: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, d_model, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.RMSNorm(d_model)

    def forward(self, weights: Tensor) -> Tensor:
        """`(L, out, in)` -> `(L, rows, columns, d)`."""
        tiles = rearrange(self.proj(weights[:, None]), "l d r c -> l r c d")
        tokens: Tensor = self.norm(tiles.to(self.norm.weight.dtype))
        return tokens


def tile_side(size: int, wanted: int) -> int:
    """The divisor of `size` nearest to `wanted` by ratio, of two as near the smaller: 112 for (8960, 96).

    Raises ValueError where none is between half and twice of what is wanted: tiles would be no tiles.
    """
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    side = min(divisors, key=lambda d: (abs(math.log(d / wanted)), d))
    if not wanted / 2 <= side <= wanted * 2:
        raise ValueError(f"no divisor of {size} is near patch_size {wanted} (the nearest is {side}); choose another")
    return side


class TileEmbed(nn.Module):
    """Matrices of several shapes -> tokens that know their place.

    What two shapes have in common they share: tiles of one size a convolution, axes of one length their positions.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], patch_size: int, d_model: int) -> None:
        super().__init__()
        self.sides = {size: tile_side(size, patch_size) for shape in shapes for size in shape}
        tiles = dict.fromkeys((self.sides[rows], self.sides[columns]) for rows, columns in shapes)
        self.patch = nn.ModuleDict({f"{tile[0]}x{tile[1]}": PatchEmbed(tile, d_model) for tile in tiles})
        rows, columns = (dict.fromkeys(axis) for axis in zip(*shapes, strict=True))
        self.row = nn.ParameterDict({str(size): torch.empty(size // self.sides[size], d_model) for size in rows})
        self.col = nn.ParameterDict({str(size): torch.empty(size // self.sides[size], d_model) for size in columns})
        for place in (*self.row.values(), *self.col.values()):
            nn.init.trunc_normal_(place, std=0.02)

    def forward(self, weights: Tensor) -> Tensor:
        """`(L, out, in)` of one of the shapes -> `(L, T, d)`."""
        rows, columns = weights.shape[1:]
        tokens = self.patch[f"{self.sides[rows]}x{self.sides[columns]}"](weights)
        placed = tokens + self.row[str(rows)][:, None] + self.col[str(columns)]
        return rearrange(placed, "l r c d -> l (r c) d")
