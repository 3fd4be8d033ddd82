"""From the final tokens of one layer to its low-rank pair and scale, and the one product they stand in: `B @ A`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lofa.hypernets.config import TrunkConfig
from lofa.hypernets.parts import POOLINGS, member

__all__ = ["HEADS", "PublishedHead", "low_rank_product", "make_head", "upcast"]


def upcast(value: Tensor) -> Tensor:
    """As float32, or as float64 where it is that."""
    return value if value.dtype == torch.float64 else value.float()


def low_rank_product(B: Tensor, A: Tensor) -> Tensor:
    """`B (..., out, r) @ A (..., r, in)` -> `(..., out, in)`, upcast also under autocast."""
    with torch.autocast(B.device.type, enabled=False):
        return upcast(B) @ upcast(A)


class PublishedHead(nn.Module):
    """Tokens are pooled to one vector `h (..., d)`; `A (..., r, in)`, `B (..., out, r)` are linear in it.

    They start as those of a fresh LoRA do. Layers that share a size share the linear layer of that side. B is zero, so
    the product is. The entries of A have deviation 1 / sqrt(3 in). nn.Linear's own initialisation is meant for
    activations, not for the entries of a weight: sqrt(in) larger, it took 1.5 times the steps to one loss.

    alpha_init: alpha of every layer at first; None: there is no alpha.
    """

    def __init__(self, config: TrunkConfig, alpha_init: float | None = None) -> None:
        super().__init__()
        self.rank = config.lora_rank
        self.pool = member(POOLINGS, "pooling", config.pooling)
        outs, ins = (dict.fromkeys(axis) for axis in zip(*config.shapes, strict=True))
        self.A = nn.ModuleDict({str(size): nn.Linear(config.d_model, self.rank * self.inner(size, 0)) for size in ins})
        self.B = nn.ModuleDict({str(size): nn.Linear(config.d_model, self.inner(size, 1) * self.rank) for size in outs})
        self.scale = None if alpha_init is None else _ScaleHead(config.d_model, alpha_init)
        with torch.no_grad():
            for size in ins:
                for entries in self.A[str(size)].parameters():
                    entries.mul_(self.inner(size, 0) ** -0.5)
            for entries in self.B.parameters():
                entries.zero_()

    def inner(self, size: int, side: int) -> int:
        """How many numbers are predicted for each rank of a side of `size`, side 0: of A, 1: of B."""
        return size

    def forward(self, tokens: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Final tokens `(P, L, T, d)` of layers of shape (out, in) -> A, B, and alpha `(P, L)` where there is one."""
        h = self.pool(tokens)
        A = rearrange(self.A[str(shape[1])](h), "... (r i) -> ... r i", r=self.rank)
        B = rearrange(self.B[str(shape[0])](h), "... (o r) -> ... o r", r=self.rank)
        return A, B, None if self.scale is None else self.scale(h)


class _ScaleHead(nn.Module):
    """`h (..., d)` -> `alpha (...)`, positive, at first `initial` for every layer."""

    def __init__(self, d_model: int, initial: float) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, initial + math.log(-math.expm1(-initial)))

    def forward(self, h: Tensor) -> Tensor:
        return F.softplus(self.linear(h).squeeze(-1))


class LightweightHead(PublishedHead):
    """Coefficients in fixed random orthogonal bases (HyperDreamBooth, Ruiz et al. 2024, 4.1).

        A = A_train Q_in,   B = Q_out B_train       Q_in (a, in), Q_out (out, b) drawn once, never trained

    a and b are 100 and 50, as published, or the side itself where that is smaller. The bases are saved with the head.
    """

    _INNER = (100, 50)

    def __init__(self, config: TrunkConfig, alpha_init: float | None = None) -> None:
        super().__init__(config, alpha_init)
        generator = torch.Generator().manual_seed(0)
        for side, heads in enumerate((self.A, self.B)):
            for size in map(int, heads):
                drawn = torch.randn(size, self.inner(size, side), generator=generator, device="cpu")
                self.register_buffer(f"basis_{side}_{size}", torch.linalg.qr(drawn).Q.contiguous())

    def inner(self, size: int, side: int) -> int:
        return min(size, self._INNER[side])

    def forward(self, tokens: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor | None]:
        A, B, alpha = super().forward(tokens, shape)
        Q_in, Q_out = (self.get_buffer(f"basis_{side}_{shape[1 - side]}").to(A.dtype) for side in (0, 1))
        return A @ Q_in.T, Q_out @ B, alpha


HEADS: dict[str, Callable[..., nn.Module]] = {"published": PublishedHead, "lightweight": LightweightHead}
"""What `hypernet.head` may be."""


def make_head(config: TrunkConfig, alpha_init: float | None = None) -> nn.Module:
    """The head that a configuration names (ValueError: it is in no table)."""
    return member(HEADS, "head", config.head)(config, alpha_init)
