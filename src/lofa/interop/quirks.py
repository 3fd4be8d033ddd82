"""The published network's mistakes, each by itself, put into our networks: to measure what leaving them out is worth.

    columns      W is divided by its root-mean-square per input column
    softplus     S = softplus(B A): never below 0, so the probability of response never below sigmoid(-tau / T)
    first_tile   the pooled mean leaves out the first tile
    padding      the condition is zero-padded to 512 tokens, and all of them are attended to
    last_block   checkpointed blocks are all recomputed as the one that ran last, so their gradients are wrong

A sixth, alpha left out of the L1 loss, is no matter of the network: `AdapterModule(alpha_in_delta=False)`. For the
published network itself see `lofa.interop.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.hypernets import Response, ResponseNet
from lofa.hypernets.trunk import Trunk
from lofa.interop.config import PROMPT_TOKENS
from lofa.interop.reference import collapse_padding

__all__ = ["QUIRKS", "add_quirks"]


class _Columns(Trunk):
    @staticmethod
    def normalise(weights: Tensor) -> Tensor:
        return weights / (weights.square().mean(1, keepdim=True) + 1e-6).sqrt()


class _SoftplusResponse(Response):
    def activate(self, product: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.softplus(product), product.sigmoid()


class _Softplus(ResponseNet):
    def respond(self, *inputs: Any) -> Response:
        return _SoftplusResponse(**vars(super().respond(*inputs)))


class _FirstTile(Trunk):
    @staticmethod
    def pool(tokens: Tensor) -> Tensor:
        return tokens[:, :, 1:].mean(2)


class _Padding(Trunk):
    def project(self, context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        super().project(context, lengths)  # for its checks
        padded = F.pad(context, (0, 0, 0, max(0, PROMPT_TOKENS - context.shape[1])))
        text, bias = collapse_padding(padded.to(self.context_proj.weight.dtype))
        return self.context_proj(text), bias


class _LastBlock(Trunk):
    def run(self, block: nn.Module, *inputs: Tensor | bool | None) -> Tensor:
        latest: dict[type[nn.Module], nn.Module] = self.__dict__.setdefault("_latest", {})
        latest[type(block)] = block
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return super().run(block, *inputs)
        kind = type(block)
        recomputed: Tensor = checkpoint(lambda *values: latest[kind](*values), *inputs, use_reentrant=False)
        return recomputed


QUIRKS: dict[str, type[Trunk]] = {
    "columns": _Columns,
    "softplus": _Softplus,
    "first_tile": _FirstTile,
    "padding": _Padding,
    "last_block": _LastBlock,
}
"""What `hypernet.quirks` may list."""


def add_quirks(network: nn.Module, names: Sequence[str]) -> None:
    """Gives a network quirks of `QUIRKS`, which its `config` then lists, by making it a subclass of what it was.

    Those of stage I alone are passed over in stage II. Raises ValueError on an unknown name, or where a quirk could do
    nothing.
    """
    unknown = [name for name in names if name not in QUIRKS]
    if unknown:
        raise ValueError(f"quirk {unknown[0]!r} is none of {', '.join(QUIRKS)}")
    if not isinstance(network, Trunk):
        raise TypeError(f"{type(network).__name__} is no network of lofa.hypernets")
    if "last_block" in names and not network.gradient_checkpointing:
        raise ValueError("the quirk last_block changes checkpointed blocks; it needs gradient_checkpointing=true")
    fitting = [name for name in names if isinstance(network, ResponseNet) or name != "softplus"]
    if fitting:
        kind = type(network)
        network.__class__ = type(kind.__name__, (*(QUIRKS[name] for name in fitting), kind), {})
        network._config["quirks"] = fitting
