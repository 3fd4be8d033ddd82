"""From a pooled vector `h` of one layer to its low-rank pair and scale, and the one product they stand in: `B @ A`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

__all__ = ["LowRankHead", "ScaleHead", "low_rank_product"]


def low_rank_product(B: Tensor, A: Tensor) -> Tensor:
    """`B (..., out, r) @ A (..., r, in)` -> `(..., out, in)`, in float32 or wider also under autocast."""
    with torch.autocast(B.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(A.dtype, B.dtype), torch.float32)
        return B.to(wide) @ A.to(wide)


class LowRankHead(nn.Module):
    """`h (..., d)` -> `A (..., r, in)` and `B (..., out, r)`, which start as those of a fresh LoRA do.

    Layers that share a size share the head of that side. B is zero, so the product is. The entries of A have deviation
    1 / sqrt(3 in). nn.Linear's own initialisation is meant for activations, not for the entries of a weight: sqrt(in)
    larger, it took 1.5 times the steps to one loss.
    """

    def __init__(self, d_model: int, rank: int, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.rank = rank
        outs, ins = (dict.fromkeys(axis) for axis in zip(*shapes, strict=True))
        self.A = nn.ModuleDict({str(size): self._fresh_A(d_model, rank, size) for size in ins})
        self.B = nn.ModuleDict({str(size): self._fresh_B(d_model, rank, size) for size in outs})

    @staticmethod
    @torch.no_grad()
    def _fresh_A(d_model: int, rank: int, size: int) -> nn.Linear:
        linear = nn.Linear(d_model, rank * size)
        linear.weight.mul_(size**-0.5)
        linear.bias.mul_(size**-0.5)
        return linear

    @staticmethod
    def _fresh_B(d_model: int, rank: int, size: int) -> nn.Linear:
        linear = nn.Linear(d_model, size * rank)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def forward(self, h: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        A = rearrange(self.A[str(shape[1])](h), "... (r i) -> ... r i", r=self.rank)
        return A, rearrange(self.B[str(shape[0])](h), "... (o r) -> ... o r", r=self.rank)


class ScaleHead(nn.Module):
    """`h (..., d)` -> `alpha (...)`, positive, at first `initial` for every layer."""

    def __init__(self, d_model: int, initial: float) -> None:
        super().__init__()
        if not 0 < initial < math.inf:
            raise ValueError(f"alpha_init must be positive; got {initial}")
        self.linear = nn.Linear(d_model, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, initial + math.log(-math.expm1(-initial)))

    def forward(self, h: Tensor) -> Tensor:
        return F.softplus(self.linear(h).squeeze(-1))
