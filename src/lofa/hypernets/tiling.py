"""A weight matrix becomes a sequence: `W (out, in)`, scaled to unit root-mean-square, is cut into tiles, each a token.

Tiles are `patch x patch`, so the grid has `out / patch` rows and `in / patch` columns; tokens run row by row. A token's
place is told by a learned vector of its row plus one of its column.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

__all__ = ["GridPosition", "PatchEmbed", "unit_rms"]


def unit_rms(weights: Tensor) -> Tensor:
    """Each matrix of `(L, out, in)` divided by the root-mean-square of all its entries, in float32 or wider.

    Raises ValueError naming the matrices that hold NaN or infinity.
    """
    weights = weights if weights.dtype == torch.float64 else weights.float()
    mean_square = weights.square().mean((1, 2), keepdim=True)
    if not bool(mean_square.isfinite().all()):
        bad = (~mean_square.flatten().isfinite()).nonzero().flatten().tolist()
        raise ValueError(f"weight matrices {bad} of {len(weights)} hold NaN or infinity (or overflow when squared)")
    return weights * torch.rsqrt(mean_square + 1e-12)


class PatchEmbed(nn.Module):
    """Tiles of a matrix -> tokens: one convolution with kernel = stride = patch, then RMSNorm."""

    def __init__(self, patch_size: int, d_model: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, d_model, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.RMSNorm(d_model)

    def forward(self, weights: Tensor) -> Tensor:
        """`(L, out, in)` -> `(L, rows, columns, d)`."""
        tiles = rearrange(self.proj(weights[:, None]), "l d r c -> l r c d")
        tokens: Tensor = self.norm(tiles.to(self.norm.weight.dtype))
        return tokens


class GridPosition(nn.Module):
    """Adds a learned vector of the row and one of the column."""

    def __init__(self, rows: int, columns: int, d_model: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.empty(1, rows, 1, d_model))
        self.col = nn.Parameter(torch.empty(1, 1, columns, d_model))
        nn.init.trunc_normal_(self.row, std=0.02)
        nn.init.trunc_normal_(self.col, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(L, rows, columns, d)` -> `(L, rows * columns, d)`."""
        return rearrange(tokens + self.row + self.col, "l r c d -> l (r c) d")
