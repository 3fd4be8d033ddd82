"""Sums over the entries of `B @ A` that never hold `B @ A` of all layers, nor keep anything of it for backward.

A product is walked in tiles of whole layers, or of some rows of one layer where a layer is large. As the sums' gradient
by an entry is known with its value, the gradients by A and B are taken in the same pass, and backward only scales them:
nothing is computed twice, which checkpointing would do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofa.hypernets.heads import upcast

__all__ = ["Tile", "low_rank_sum", "tiles_of"]

_SHARE = 32  # a tile holds about so small a part of all entries, and so do the temporaries that a sum makes of it
_LEAST, _MOST = 2**16, 2**26  # entries a tile: below, calls cost more than they do; above, a large GPU is long full


@dataclass(frozen=True)
class Tile:
    """Some rows of some layers; the prompts are always all there."""

    layers: slice
    rows: slice

    def of(self, matrices: Sequence[Tensor]) -> Tensor:
        """The tile (l, rows, in) of L matrices (out, in), which are not stacked elsewhere."""
        return torch.stack([matrix[self.rows] for matrix in matrices[self.layers]])

    def product(self, B: Tensor, A: Tensor) -> Tensor:
        """The tile of `B (P, L, out, r) @ A (P, L, r, in)`."""
        return B[:, self.layers, self.rows] @ A[:, self.layers]


def tiles_of(prompts: int, layers: int, out_features: int, in_features: int) -> Iterator[Tile]:
    """Tiles that cover every row of every layer once."""
    row = prompts * in_features
    rows = max(1, min(_MOST, max(_LEAST, layers * out_features * row // _SHARE)) // row)
    if rows >= out_features:
        several = rows // out_features
        for start in range(0, layers, several):
            yield Tile(slice(start, min(start + several, layers)), slice(0, out_features))
        return
    for layer in range(layers):
        for start in range(0, out_features, rows):
            yield Tile(slice(layer, layer + 1), slice(start, min(start + rows, out_features)))


EntryLoss = Callable[[Tensor, Tile], tuple[Tensor, Tensor, Tensor | None]]
"""Tile (P, l, rows, in) of B @ A -> its sum (P,), the derivative by each entry, and sums (P,) to carry along."""


def low_rank_sum(B: Tensor, A: Tensor, entry_loss: EntryLoss) -> tuple[Tensor, Tensor]:
    """Sums a function of the entries of `B @ A`, tile by tile, with gradients by A and B.

    Args:
        B: (P, L, out, r)
        A: (P, L, r, in)
        entry_loss: function and derivative of one tile; it keeps no graph

    Returns:
        sums (P,); the sums carried along (P,), zero where there are none, without gradient
    """
    with torch.autocast(B.device.type, enabled=False):
        total, carried = _LowRankSum.apply(upcast(B), upcast(A), entry_loss)
    return total, carried


class _LowRankSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, B: Tensor, A: Tensor, entry_loss: EntryLoss) -> tuple[Tensor, Tensor]:
        prompts, layers, out_features, _ = B.shape
        total, carried = B.new_zeros(prompts), B.new_zeros(prompts)
        wanted = any(ctx.needs_input_grad)
        by_B, by_A = (torch.zeros_like(value) if wanted else value for value in (B, A))
        for tile in tiles_of(prompts, layers, out_features, A.shape[3]):
            value, derivative, extra = entry_loss(tile.product(B, A), tile)
            total += value
            if extra is not None:
                carried += extra
            if wanted:
                by_B[:, tile.layers, tile.rows] = derivative @ A[:, tile.layers].mT
                by_A[:, tile.layers] += B[:, tile.layers, tile.rows].mT @ derivative
        ctx.save_for_backward(*((by_B, by_A) if wanted else ()))
        ctx.mark_non_differentiable(carried)
        return total, carried

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        by_B, by_A = ctx.saved_tensors
        scale = grad_output[:, None, None, None]
        return scale * by_B, scale * by_A, None
