"""Low-rank weight updates of one linear layer: `delta_w = alpha * B @ A`.

| symbol  | meaning                                   | one adapter | N adapters  |
|---------|-------------------------------------------|-------------|-------------|
| `A`     | down projection                           | (r, in)     | (N, r, in)  |
| `B`     | up projection                             | (out, r)    | (N, out, r) |
| `alpha` | the multiplier itself (not divided by r)  | ()          | (N,)        |

This is the one definition of the delta weight; every file format and every forward pass agrees with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AdapterBatch", "LowRank", "LowRankBatch"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The low-rank pair of one layer.

    Attributes:
        A: (r, in)
        B: (out, r)
        alpha: (), the multiplier of `B @ A`; a Python number becomes a tensor

    Raises:
        ValueError: shapes that don't fit.
    """

    A: Tensor
    B: Tensor
    alpha: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, Tensor):
            alpha_dtype = torch.promote_types(self.A.dtype, torch.float32)
            object.__setattr__(self, "alpha", torch.tensor(self.alpha, dtype=alpha_dtype, device=self.A.device))
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1] or self.alpha.shape != ():
            raise ValueError(
                f"a LowRank needs A (r, in), B (out, r), alpha (); got A {tuple(self.A.shape)}, "
                f"B {tuple(self.B.shape)}, alpha {tuple(self.alpha.shape)}"
            )

    @property
    def rank(self) -> int:
        """r."""
        return self.A.shape[0]

    @property
    def scaled_B(self) -> Tensor:  # noqa: N802  the symbol of the mathematics
        """`alpha * B` (out, r); with alpha 1 it stands for the same delta weight, bit for bit."""
        return self.alpha * self.B

    def delta_weight(self) -> Tensor:
        """`alpha * B @ A` (out, in)."""
        return self.scaled_B @ self.A

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

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LowRank":
        """Moves the pair; `dtype` is that of A and B, alpha keeps its own (half precision would move it by 0.4 %)."""
        return LowRank(self.A.to(device, dtype), self.B.to(device, dtype), self.alpha.to(device))


@dataclass(eq=False)
class LowRankBatch:
    """N low-rank pairs of one layer, side by side; the tensors may be parameters or a network's output.

    Attributes:
        A: (N, r, in)
        B: (N, out, r)
        alpha: (N,)

    Raises:
        ValueError: shapes that don't fit.
    """

    A: Tensor
    B: Tensor
    alpha: Tensor

    def __post_init__(self) -> None:
        fits = self.A.ndim == 3 and self.B.ndim == 3 and self.A.shape[:2] == (self.B.shape[0], self.B.shape[2])
        if not fits or self.alpha.shape != self.A.shape[:1]:
            raise ValueError(
                f"a LowRankBatch needs A (N, r, in), B (N, out, r), alpha (N,); got A {tuple(self.A.shape)}, "
                f"B {tuple(self.B.shape)}, alpha {tuple(self.alpha.shape)}"
            )

    def __len__(self) -> int:
        return self.A.shape[0]

    def __getitem__(self, index: int) -> LowRank:
        return LowRank(self.A[index], self.B[index], self.alpha[index])

    def delta_weight(self) -> Tensor:
        """`alpha * B @ A` (N, out, in)."""
        return (self.alpha[:, None, None] * self.B) @ self.A

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LowRankBatch":
        """Moves the batch; `dtype` is that of A and B, alpha keeps its own."""
        return LowRankBatch(self.A.to(device, dtype), self.B.to(device, dtype), self.alpha.to(device))


AdapterBatch = Mapping[str, LowRankBatch]
"""N adapters: layer name -> their N pairs."""
