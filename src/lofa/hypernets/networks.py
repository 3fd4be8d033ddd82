"""The networks of both stages: frozen weights `W` and a condition `c` through a trunk and a head.

    stage I     S = B A,  logits = (S - tau) / T,  P(R = 1) = sigmoid(logits)       which entries of W the adapter moves
                the truth, from a trained adapter:  m = |delta_w| / (|W| + eps),  R = m > tau
    stage II    delta_w = alpha B A                                                 the adapter itself
S is free in sign, so "no response" (probability near 0) can be said. In stage II, after chosen blocks, the tokens of a
layer read the stage I tokens of the same prompt and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.hypernets.blocks import ReadBlock
from lofa.hypernets.config import AdapterConfig, ResponseConfig, TrunkConfig
from lofa.hypernets.heads import low_rank_product, make_head, upcast
from lofa.hypernets.layers import FrozenLayer, Prepared
from lofa.hypernets.parts import ACTIVATIONS, Activation, identity, member
from lofa.hypernets.tiling import TileEmbed
from lofa.hypernets.trunk import Trunk

__all__ = ["AdapterNet", "Response", "ResponseNet"]

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


class _Network(nn.Module):
    """A trunk, and what is built on it."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config, TileEmbed(config.shapes, config.patch_size, config.d_model))

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """As `Trunk.embed`."""
        return self.trunk.embed(layers)

    def begin(self, tokens: Tensor) -> Tensor:
        """As `Trunk.begin`."""
        return self.trunk.begin(tokens)


class ResponseNet(_Network):
    """The network of stage I. Raises ValueError on a part or head that is in no table."""

    Config = ResponseConfig

    def __init__(self, config: ResponseConfig) -> None:
        super().__init__(config)
        self.config = config
        self.activate = member(ACTIVATIONS, "activation", config.activation)
        self.head = make_head(config)

    def tokens(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Tensor:
        """The final tokens (P, L, T, d) alone, which stage II reads; arguments as in `Trunk.project`."""
        return self.trunk.finish(prepared.tokens, *self.trunk.project(context, lengths))

    def respond(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Response:
        """Response of P prompts in the L prepared layers; arguments as in `Trunk.project`."""
        tokens = self.tokens(prepared, context, lengths)
        A, B, _ = self.head(tokens, prepared.shape)
        return Response(tokens, A, B, self.config.tau, self.config.temperature, prepared.layers, self.activate)


class AdapterNet(_Network):
    """The network that predicts adapters.

    alpha starts at `alpha_init`. As B starts at zero, that does not change the first adapter but how fast it moves: the
    published 1e-3 gives the heads gradients too small for Adam's epsilon.
    Raises ValueError on a part or head that is in no table.
    """

    Config = AdapterConfig

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__(config)
        self.config = config
        self.reads = nn.ModuleDict(
            {
                str(i): ReadBlock(config.d_model, config.response_width, config.n_heads, config.mlp_ratio)
                for i in config.read_after
            }
        )
        self.head = make_head(config, config.alpha_init)

    def adapt(
        self, prepared: Prepared, context: Tensor, lengths: Tensor, response_tokens: Tensor | None = None
    ) -> LoraBatch:
        """Adapters of P prompts in the L prepared layers, in float32 or wider.

        context `(P, N, C)` zero padded, lengths `(P,)`, response_tokens `(P, L, T, response_width)` of the same prompts
        and layers (unread where `read_after` is empty). Raises ValueError on shapes that do not fit.
        """
        wanted = len(context), len(prepared.layers), self.config.response_width
        got = None if response_tokens is None else tuple(response_tokens.shape)
        if self.reads and (got is None or len(got) != 4 or (*got[:2], got[3]) != wanted):
            prompts, layers, width = wanted
            raise ValueError(f"response_tokens must be ({prompts}, {layers}, T, {width}); got {got}")
        condition, mask = self.trunk.project(context, lengths)
        tokens = self.trunk.finish(prepared.tokens, condition, mask, self.reads, response_tokens)
        A, B, alpha = self.head(tokens, prepared.shape)
        return LoraBatch(upcast(A), upcast(B), upcast(alpha), prepared.layers)
