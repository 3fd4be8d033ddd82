"""Stage II. Frozen weights `W`, a condition `c` and the stage I tokens -> the adapter itself: `delta_w = alpha B A`.

After chosen blocks the tokens of a layer read the stage I tokens of the same prompt and layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lofa.hypernets.blocks import ReadBlock
from lofa.hypernets.heads import LowRankHead, ScaleHead, low_rank_product
from lofa.hypernets.trunk import Prepared, Trunk

__all__ = ["AdapterNet", "WeightPrediction"]


@dataclass(frozen=True)
class WeightPrediction:
    """Predicted adapters of P prompts in L layers."""

    A: Tensor
    """(P, L, r, in)"""
    B: Tensor
    """(P, L, out, r)"""
    alpha: Tensor
    """(P, L), positive"""

    def delta_weight(self) -> Tensor:
        """`(P, L, out, in)`, float32 or wider: alpha B A."""
        return low_rank_product(self.B * self.alpha[..., None, None], self.A)


class AdapterNet(Trunk):
    """The stage II hypernetwork. Values as in `Trunk`, and

    lora_rank: rank r of the predicted adapters. response_width: features of a stage I token (its `d_model`).
    read_after: the blocks (from 0) after which stage I is read; none: a network without stage I (the paper's ablation).
    alpha_init: alpha of every layer at first. B starts at zero, so this does not change the first adapter but how fast
    it moves: the published 1e-3 gives the heads gradients too small for Adam's epsilon.
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
        response_width: int,
        read_after: Sequence[int],
        alpha_init: float = 0.1,
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
        self.read_after = _block_numbers(read_after, condition_from, n_blocks)
        self._config |= {
            "response_width": response_width,
            "read_after": list(self.read_after),
            "alpha_init": alpha_init,
        }
        self.response_width = response_width
        self.reads = nn.ModuleDict(
            {str(i): ReadBlock(d_model, response_width, n_heads, mlp_ratio) for i in self.read_after}
        )
        self.head = LowRankHead(d_model, lora_rank, self.shapes)
        self.scale = ScaleHead(d_model, alpha_init)

    def units(self) -> list[nn.Module]:
        return [*self.blocks, *self.reads.values()]

    def forward(
        self,
        weights: Tensor,
        depth: Tensor,
        kind: Tensor,
        context: Tensor,
        lengths: Tensor,
        response_tokens: Tensor | None,
    ) -> WeightPrediction:
        """Adapters of P prompts in L layers.

        weights `(L, out, in)` of one shape, depth `(L,)`, kind `(L,)`, context `(P, N, C)` zero padded, lengths `(P,)`,
        response_tokens `(P, L, T, response_width)` of the same prompts and layers (unread where `read_after` is empty).
        Raises ValueError on shapes that do not fit and on weights that are not finite.
        """
        return self.adapt(self.prepare(weights, depth, kind), context, lengths, response_tokens)

    def adapt(
        self, prepared: Prepared, context: Tensor, lengths: Tensor, response_tokens: Tensor | None
    ) -> WeightPrediction:
        """As `forward`, from what `prepare` gave for the layers."""

        def read(i: int, x: Tensor) -> Tensor:
            if i not in self.read_after:
                return x
            return self.run(self.reads[str(i)], x, self._response(response_tokens, x))

        h = self.pool(self.finish(prepared, context, lengths, read))
        A, B = self.head(h, prepared.shape)
        return WeightPrediction(A, B, self.scale(h))

    def _response(self, tokens: Tensor | None, x: Tensor) -> Tensor:
        prompts, layers, width = *x.shape[:2], self.response_width
        if tokens is None or tokens.ndim != 4 or (*tokens.shape[:2], tokens.shape[3]) != (prompts, layers, width):
            got = None if tokens is None else tuple(tokens.shape)
            raise ValueError(f"response_tokens must be ({prompts}, {layers}, T, {width}); got {got}")
        return tokens.to(x.dtype)


def _block_numbers(values: Sequence[int], first: int, n_blocks: int) -> tuple[int, ...]:
    numbers = tuple(sorted({int(value) for value in values}))
    outside = [number for number in numbers if not first <= number < n_blocks]
    if outside:
        raise ValueError(f"read_after holds {outside}, but the blocks that read are numbered {first}..{n_blocks - 1}")
    return numbers
