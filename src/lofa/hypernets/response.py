"""Stage I. Frozen weights `W` and a condition `c` -> which entries of `W` the prompt's adapter moves.

    m = |delta_w| / (|W| + eps),  R = m > tau          the truth, from a trained adapter
    S = B A,  logits = (S - tau) / T,  P(R = 1) = sigmoid(logits)
S is free in sign, so "no response" (probability near 0) can be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lofa.hypernets.heads import LowRankHead, low_rank_product
from lofa.hypernets.trunk import Prepared, Trunk

__all__ = ["Response", "ResponseNet"]

_ALL = slice(None)


@dataclass(frozen=True)
class Response:
    """Predicted response of P prompts in L layers."""

    tokens: Tensor
    """(P, L, T, d), final and normalised: what stage II reads"""
    A: Tensor
    """(P, L, r, in)"""
    B: Tensor
    """(P, L, out, r)"""
    tau: float
    """relative change that counts as a response"""
    temperature: float
    """T"""

    def activate(self, product: Tensor) -> tuple[Tensor, Tensor | None]:
        """`B A` -> S of the same shape, and dS / d(B A), None where it is 1."""
        return product, None

    def logits(self, layers: slice = _ALL, rows: slice = _ALL) -> Tensor:
        """`(P, L, out, in)` or some rows of some layers of it, float32 or wider."""
        S, _ = self.activate(low_rank_product(self.B[:, layers, rows], self.A[:, layers]))
        return (S - self.tau) / self.temperature

    def probability(self, layers: slice = _ALL, rows: slice = _ALL) -> Tensor:
        """As `logits`, in (0, 1)."""
        return self.logits(layers, rows).sigmoid()


class ResponseNet(Trunk):
    """The stage I hypernetwork. Values as in `Trunk`, and

    lora_rank: rank r of S. tau, temperature: of the logits.
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
        mlp_ratio: float = 4.0,
        lora_rank: int,
        tau: float = 0.02,
        temperature: float = 0.1,
        condition_from: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            shapes=shapes,
            num_depths=num_depths,
            num_kinds=num_kinds,
            context_width=context_width,
            patch_size=patch_size,
            d_model=d_model,
            n_heads=n_heads,
            n_blocks=n_blocks,
            mlp_ratio=mlp_ratio,
            lora_rank=lora_rank,
            condition_from=condition_from,
            gradient_checkpointing=gradient_checkpointing,
        )
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive; got {temperature}")
        if not 0 <= tau < math.inf:
            raise ValueError(f"tau must be at least 0; got {tau}")
        self._config |= {"tau": tau, "temperature": temperature}
        self.tau, self.temperature = tau, temperature
        self.head = LowRankHead(d_model, lora_rank, self.shapes)

    def forward(self, weights: Tensor, depth: Tensor, kind: Tensor, context: Tensor, lengths: Tensor) -> Response:
        """Response of P prompts in L layers.

        weights `(L, out, in)` of one shape, depth `(L,)`, kind `(L,)`, context `(P, N, C)` zero padded, lengths `(P,)`.
        Raises ValueError on shapes that do not fit and on weights that are not finite.
        """
        return self.respond(self.prepare(weights, depth, kind), context, lengths)

    def respond(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Response:
        """As `forward`, from what `prepare` gave for the layers. `finish` gives the tokens alone, without the heads."""
        tokens = self.finish(prepared, context, lengths)
        A, B = self.head(self.pool(tokens), prepared.shape)
        return Response(tokens, A, B, self.tau, self.temperature)
