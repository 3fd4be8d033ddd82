"""From a pooled vector `h` of one layer to its low-rank pair and scale, and the one product they stand in: `B @ A`."""

from __future__ import annotations

import math

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

    B is zero, so the product is. The entries of A have deviation 1 / sqrt(3 in). nn.Linear's own initialisation is
    meant for activations, not for the entries of a weight: sqrt(in) larger, it took 1.5 times the steps to one loss.
    """

    def __init__(self, d_model: int, rank: int, out_features: int, in_features: int) -> None:
        super().__init__()
        self.rank = rank
        self.A = nn.Linear(d_model, rank * in_features)
        self.B = nn.Linear(d_model, out_features * rank)
        with torch.no_grad():
            self.A.weight.mul_(in_features**-0.5)
            self.A.bias.mul_(in_features**-0.5)
        nn.init.zeros_(self.B.weight)
        nn.init.zeros_(self.B.bias)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        A = rearrange(self.A(h), "... (r i) -> ... r i", r=self.rank)
        return A, rearrange(self.B(h), "... (o r) -> ... o r", r=self.rank)


class ScaleHead(nn.Module):
    """`h (..., d)` -> `alpha (...)`, positive, at first `initial` for every layer."""

    def __init__(self, d_model: int, initial: float) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"alpha_init must be positive; got {initial}")
        self.linear = nn.Linear(d_model, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, initial + math.log(-math.expm1(-initial)))

    def forward(self, h: Tensor) -> Tensor:
        return F.softplus(self.linear(h).squeeze(-1))
