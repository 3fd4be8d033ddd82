"""The adapter itself, from frozen weights `W` and a condition `c`: `delta_w = alpha B A`.

In stage II, after chosen blocks, the tokens of a layer read the stage I tokens of the same prompt and layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.hypernets.blocks import ReadBlock
from lofa.hypernets.config import AdapterConfig
from lofa.hypernets.heads import HEADS, upcast
from lofa.hypernets.layers import FrozenLayer, Prepared
from lofa.hypernets.parts import member
from lofa.hypernets.tiling import TileEmbed
from lofa.hypernets.trunk import Trunk

__all__ = ["AdapterNet"]


class AdapterNet(nn.Module):
    """The network that predicts adapters: a trunk, blocks that read stage I, a head.

    alpha starts at `alpha_init`. As B starts at zero, that does not change the first adapter but how fast it moves: the
    published 1e-3 gives the heads gradients too small for Adam's epsilon.
    Raises ValueError on a part or head that is in no table.
    """

    Config = AdapterConfig

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, TileEmbed(config.shapes, config.patch_size, config.d_model))
        self.reads = nn.ModuleDict(
            {
                str(i): ReadBlock(config.d_model, config.response_width, config.n_heads, config.mlp_ratio)
                for i in config.read_after
            }
        )
        self.head = member(HEADS, "head", config.head)(config, config.alpha_init)

    def units(self) -> list[nn.Module]:
        """The modules to shard one by one."""
        return [*self.trunk.blocks, *self.reads.values()]

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """As `Trunk.embed`."""
        return self.trunk.embed(layers)

    def begin(self, tokens: Tensor) -> Tensor:
        """As `Trunk.begin`."""
        return self.trunk.begin(tokens)

    def adapt(
        self, prepared: Prepared, context: Tensor, lengths: Tensor, response_tokens: Tensor | None = None
    ) -> LoraBatch:
        """Adapters of P prompts in the L prepared layers, in float32 or wider.

        context `(P, N, C)` zero padded, lengths `(P,)`, response_tokens `(P, L, T, response_width)` of the same prompts
        and layers (unread where `read_after` is empty). Raises ValueError on shapes that do not fit.
        """

        def read(i: int, x: Tensor) -> Tensor:
            if i not in self.config.read_after:
                return x
            return self.trunk.run(self.reads[str(i)], x, self._response(response_tokens, x))

        A, B, alpha = self.head(self.trunk.finish(prepared, context, lengths, read), prepared.shape)
        return LoraBatch(upcast(A), upcast(B), upcast(alpha), prepared.layers)

    def _response(self, tokens: Tensor | None, x: Tensor) -> Tensor:
        prompts, layers, width = *x.shape[:2], self.config.response_width
        if tokens is None or tokens.ndim != 4 or (*tokens.shape[:2], tokens.shape[3]) != (prompts, layers, width):
            got = None if tokens is None else tuple(tokens.shape)
            raise ValueError(f"response_tokens must be ({prompts}, {layers}, T, {width}); got {got}")
        return tokens.to(x.dtype)
