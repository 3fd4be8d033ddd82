"""The published network's mistakes, each by itself, as parts of our networks, to measure what leaving them out gains.

    columns      W is divided by its root-mean-square per input column
    softplus     S = softplus(B A): never below 0, so the probability of response never below sigmoid(-tau / T)
    first_tile   the pooled mean leaves out the first tile
    padding      the condition is zero-padded to 512 tokens, and all of them are attended to
    last_block   checkpointed blocks are all recomputed as the one that ran last, so their gradients are wrong

They are members of the tables of `lofa.hypernets.parts`. A sixth, alpha left out of the L1 loss, is no matter of the
network: `AdapterModule(alpha_in_delta=False)`. For the published network itself see `lofa.interop.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.hypernets import parts
from lofa.hypernets.parts import Recomputation, member
from lofa.interop.config import PROMPT_TOKENS

__all__ = ["QUIRKS", "collapse_padding", "columns", "fill_prompt", "quirky", "softplus"]


def columns(weights: Tensor) -> Tensor:
    """`(L, out, in)` divided by its root-mean-square per input column."""
    return weights / (weights.square().mean(1, keepdim=True) + 1e-6).sqrt()


def softplus(product: Tensor) -> tuple[Tensor, Tensor | None]:
    """S is never below 0."""
    return F.softplus(product), product.sigmoid()


def without_first_tile(tokens: Tensor) -> Tensor:
    """`(P, L, T, d)` -> `(P, L, d)`."""
    return tokens[:, :, 1:].mean(2)


def padded(context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
    """Condition `(P, N, C)`, all its padding attended to, as `collapse_padding` gives it."""
    return collapse_padding(fill_prompt(context))


def fill_prompt(context: Tensor) -> Tensor:
    """`(P, N, C)` -> `(P, max(N, 512), C)`, zero behind."""
    return F.pad(context, (0, 0, 0, max(0, PROMPT_TOKENS - context.shape[1])))


def collapse_padding(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Identical tokens at the end of each prompt of `text (P, N, C)` become one.

    Returns `(P, n, C)` and what to add to the logits of each key `(P, n)`: log of how many it stands for, so attention
    gives what it gave; None where nothing was identical, or where the tokens want a gradient of their own.
    """
    identical = (text == text[:, -1:]).all(-1)
    count = identical.flip(1).long().cumprod(1).sum(1)
    kept = text.shape[1] - count + 1
    longest = int(kept.max())
    if longest == text.shape[1] or text.requires_grad:
        return text, None
    place = torch.arange(longest, device=text.device)
    bias = torch.zeros(len(text), longest, dtype=text.dtype, device=text.device)
    bias.masked_fill_(place >= kept[:, None], -torch.inf)
    bias[torch.arange(len(text)), kept - 1] = count.to(text.dtype).log()
    return text[:, :longest], bias


class LastBlock(Recomputation):
    """Recomputes every block of a class as the one that ran last."""

    def __init__(self, on: bool) -> None:
        super().__init__(on)
        self._latest: dict[type[nn.Module], nn.Module] = {}

    def __call__(self, block: nn.Module, *inputs: Tensor | bool | None) -> Tensor:
        kind = type(block)
        self._latest[kind] = block
        if not (self.on and torch.is_grad_enabled()):
            return super().__call__(block, *inputs)
        recomputed: Tensor = checkpoint(lambda *values: self._latest[kind](*values), *inputs, use_reentrant=False)
        return recomputed


parts.NORMALISATIONS["columns"] = columns
parts.ACTIVATIONS["softplus"] = softplus
parts.POOLINGS["first_tile"] = without_first_tile
parts.PADDINGS["padding"] = padded
parts.RECOMPUTATIONS["last_block"] = LastBlock

QUIRKS = {
    "columns": "normalisation",
    "softplus": "activation",
    "first_tile": "pooling",
    "padding": "padding",
    "last_block": "recomputation",
}
"""What `hypernet.quirks` may list, a member of a table by that name -> the constructor value that names it."""


def quirky(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Constructor values with quirks of `QUIRKS`; a network takes those it knows, softplus is stage I's alone.

    Raises ValueError on an unknown name, or where a quirk could do nothing.
    """
    if "last_block" in names and not values.get("gradient_checkpointing"):
        raise ValueError("the quirk last_block changes checkpointed blocks; it needs gradient_checkpointing=true")
    return {**values, **{member(QUIRKS, "quirk", name): name for name in names}}
