"""Stage I. Frozen weights `W` and a condition `c` -> which entries of `W` the prompt's adapter moves.

    m = |delta_w| / (|W| + eps),  R = m > tau          the truth, from a trained adapter
    S = B A,  logits = (S - tau) / T,  P(R = 1) = sigmoid(logits)
S is free in sign, so "no response" (probability near 0) can be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lofa.hypernets.config import ResponseConfig
from lofa.hypernets.heads import HEADS, low_rank_product
from lofa.hypernets.layers import FrozenLayer, Prepared
from lofa.hypernets.parts import ACTIVATIONS, Activation, identity, member
from lofa.hypernets.tiling import TileEmbed
from lofa.hypernets.trunk import Trunk

__all__ = ["Response", "ResponseNet"]

_ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Response:
    """Predicted response of P prompts in L layers of one shape."""

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
    layers: tuple[str, ...]
    """names of the layers"""
    activate: Activation = identity
    """B A -> S, and its derivative"""

    def logits(self, layers: slice = _ALL, rows: slice = _ALL) -> Tensor:
        """`(P, L, out, in)` or some rows of some layers of it, float32 or wider."""
        S, _ = self.activate(low_rank_product(self.B[:, layers, rows], self.A[:, layers]))
        return (S - self.tau) / self.temperature

    def probability(self, layers: slice = _ALL, rows: slice = _ALL) -> Tensor:
        """As `logits`, in (0, 1)."""
        return self.logits(layers, rows).sigmoid()


class ResponseNet(nn.Module):
    """The network of stage I: a trunk and a head.

    Raises ValueError on a part or head that is in no table.
    """

    Config = ResponseConfig

    def __init__(self, config: ResponseConfig) -> None:
        super().__init__()
        self.config = config
        self.activate = member(ACTIVATIONS, "activation", config.activation)
        self.trunk = Trunk(config, TileEmbed(config.shapes, config.patch_size, config.d_model))
        self.head = member(HEADS, "head", config.head)(config)

    def units(self) -> list[nn.Module]:
        """The modules to shard one by one."""
        return list(self.trunk.blocks)

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """As `Trunk.embed`."""
        return self.trunk.embed(layers)

    def begin(self, tokens: Tensor) -> Tensor:
        """As `Trunk.begin`."""
        return self.trunk.begin(tokens)

    def tokens(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Tensor:
        """The final tokens (P, L, T, d) alone, which stage II reads; arguments as in `Trunk.finish`."""
        return self.trunk.finish(prepared, context, lengths)

    def respond(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Response:
        """Response of P prompts in the L prepared layers; arguments as in `Trunk.finish`."""
        tokens = self.tokens(prepared, context, lengths)
        A, B, _ = self.head(tokens, prepared.shape)
        return Response(tokens, A, B, self.config.tau, self.config.temperature, prepared.layers, self.activate)
