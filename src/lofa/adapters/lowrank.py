"""Low-rank weight updates of linear layers: `delta_w = alpha * B @ A`.

| symbol  | meaning                                   | one layer   | N adapters  | N adapters, L layers of one shape |
|---------|-------------------------------------------|-------------|-------------|-----------------------------------|
| `A`     | down projection                           | (r, in)     | (N, r, in)  | (N, L, r, in)                     |
| `B`     | up projection                             | (out, r)    | (N, out, r) | (N, L, out, r)                    |
| `alpha` | the multiplier itself (not divided by r)  | ()          | (N,)        | (N, L)                            |
|         |                                           | `LowRank`   | `LowRankBatch` | `LoraBatch`                    |

This is the one definition of the delta weight; every file format and every forward pass agrees with it. Adapters always
come before layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

__all__ = ["AdapterBatch", "LoraBatch", "LowRank", "LowRankBatch", "merge_batches"]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Low-rank pairs with the same leading axes for A, B and alpha (ValueError: shapes that don't fit)."""

    A: Tensor
    B: Tensor
    alpha: Tensor

    axes: ClassVar[str] = ""

    def __post_init__(self) -> None:
        A, B, alpha = (tuple(tensor.shape) for tensor in (self.A, self.B, self.alpha))
        fits = len(alpha) == len(self.axes.split()) and len(A) == len(B) == len(alpha) + 2
        if not fits or not A[:-2] == B[:-2] == alpha or A[-2] != B[-1]:
            name, axes = type(self).__name__, self.axes
            raise ValueError(f"a {name} needs A ({axes}r, in), B ({axes}out, r), alpha ({axes}); got {A}, {B}, {alpha}")

    @property
    def rank(self) -> int:
        return self.A.shape[-2]

    @property
    def scaled_B(self) -> Tensor:  # noqa: N802  the symbol of the mathematics
        """`alpha * B`; with alpha 1 it stands for the same delta weight, bit for bit."""
        return (self.alpha[..., None, None] if self.axes else self.alpha) * self.B

    def delta_weight(self) -> Tensor:
        """`alpha * B @ A` (..., out, in), in the precision of the pairs also under autocast."""
        with torch.autocast(self.A.device.type, enabled=False):
            return self.scaled_B @ self.A

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the pairs; `dtype` is that of A and B, alpha keeps its own (half precision would move it by 0.4 %)."""
        return replace(self, A=self.A.to(device, dtype), B=self.B.to(device, dtype), alpha=self.alpha.to(device))


@dataclass(frozen=True, eq=False)
class LowRank(_Pairs):
    """The low-rank pair of one layer: A (r, in), B (out, r), alpha (); a Python number becomes a tensor."""

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, Tensor):
            alpha_dtype = torch.promote_types(self.A.dtype, torch.float32)
            object.__setattr__(self, "alpha", torch.tensor(self.alpha, dtype=alpha_dtype, device=self.A.device))
        super().__post_init__()

    def norm(self) -> float:
        """Frobenius norm of the delta weight, without making it."""
        _, core, _ = self._factors()
        return float(core.norm())

    def reduced(self, rank: int) -> "LowRank":
        """The pair of at most `rank` whose delta weight is nearest to this one's (Frobenius norm), alpha kept.

        With QR of both, B = Q_B R_B and A^T = Q_A R_A, the singular values of B A are those of the (r, r) matrix
        R_B R_A^T: the dense matrix is never made. What is left out is the rest of the singular values.

        Raises:
            ValueError: a rank below 1.
        """
        if rank < 1:
            raise ValueError(f"a pair needs a rank of at least 1, not {rank}")
        if rank >= self.rank:
            return self
        Q_B, core, Q_A = self._factors()
        U, S, V = torch.linalg.svd(core)
        rank = min(rank, len(S))
        root = S[:rank].sqrt()
        A = root[:, None] * (V[:rank] @ Q_A.T)
        alpha = self.alpha.double()
        B = (Q_B @ U[:, :rank]) * root / (alpha if alpha else 1)
        return LowRank(A.to(self.A.dtype), B.to(self.B.dtype), self.alpha)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q_B (out, k), core (k, l), Q_A (in, l) in float64 with delta = Q_B core Q_A^T and orthonormal columns."""
        Q_B, R_B = torch.linalg.qr(self.alpha.double() * self.B.double())
        Q_A, R_A = torch.linalg.qr(self.A.double().T)
        return Q_B, R_B @ R_A.T, Q_A


@dataclass(frozen=True, eq=False)
class LowRankBatch(_Pairs):
    """N low-rank pairs of one layer: A (N, r, in), B (N, out, r), alpha (N,); parameters or a network's output."""

    axes = "N, "

    def __len__(self) -> int:
        return self.A.shape[0]

    def __getitem__(self, index: int) -> LowRank:
        return LowRank(self.A[index], self.B[index], self.alpha[index])


AdapterBatch = Mapping[str, LowRankBatch]
"""N adapters: layer name -> their N pairs."""


@dataclass(frozen=True, eq=False)
class LoraBatch(_Pairs):
    """N adapters on the L `layers` of one shape: A (N, L, r, in), B (N, L, out, r), alpha (N, L)."""

    layers: tuple[str, ...]

    axes = "N, L, "

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) != self.alpha.shape[1]:
            raise ValueError(f"{len(self.layers)} names for {self.alpha.shape[1]} layers")

    @classmethod
    def stack(cls, batch: AdapterBatch, layers: Sequence[str]) -> Self:
        """N adapters on some of the layers of a batch, which are of one shape and rank."""
        pairs = [batch[name] for name in layers]
        A, B, alpha = (torch.stack([getattr(pair, part) for pair in pairs], 1) for part in ("A", "B", "alpha"))
        return cls(A, B, alpha, tuple(layers))

    def __len__(self) -> int:
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the layers."""
        return self.B.shape[2], self.A.shape[3]

    def by_layer(self) -> dict[str, LowRankBatch]:
        """The N pairs of each layer, as views."""
        return {name: LowRankBatch(self.A[:, i], self.B[:, i], self.alpha[:, i]) for i, name in enumerate(self.layers)}


def merge_batches(parts: Sequence[LoraBatch]) -> dict[str, LowRankBatch]:
    """N adapters whose layers come shape by shape, as slots take them: views."""
    return {name: pair for part in parts for name, pair in part.by_layer().items()}
