"""Exchangeable parts of a network that have no parameters. A network's configuration names a member of each table.

`lofa.interop.quirks` adds those of the published network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.hypernets.tiling import unit_rms

__all__ = [
    "ACTIVATIONS",
    "NORMALISATIONS",
    "PADDINGS",
    "POOLINGS",
    "RECOMPUTATIONS",
    "Activation",
    "Recomputation",
    "identity",
    "member",
]

Member = TypeVar("Member")
Activation = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""`B A` -> S of the same shape, and dS / d(B A), None where it is 1."""


def member(table: Mapping[str, Member], what: str, name: str) -> Member:
    """A member of a table (ValueError naming `what` and all members where there is none of that name)."""
    if name not in table:
        raise ValueError(f"{what} {name!r} is none of {', '.join(table)}")
    return table[name]


def masked(context: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
    """Condition `(P, N, C)`, `lengths (P,)` -> cut to the longest prompt `(P, n, C)`; which of it is real `(P, n)`.

    None instead of the latter says that all of it is: attention without a mask is faster.
    """
    shortest, longest = torch.stack([lengths.min(), lengths.max()]).tolist()
    if shortest == longest:
        return context[:, :longest], None
    return context[:, :longest], torch.arange(longest, device=lengths.device) < lengths[:, None]


def mean(tokens: Tensor) -> Tensor:
    """Final tokens `(P, L, T, d)` -> `(P, L, d)`: the mean over all tiles. There is no [CLS] token."""
    return tokens.mean(2)


def identity(product: Tensor) -> tuple[Tensor, Tensor | None]:
    """S is the product itself."""
    return product, None


class Recomputation:
    """Calls a block; where it is `on`, the block keeps only its input and is computed again in backward.

    The block goes by value, never through a closure over a loop's variable: that would recompute each as the last one.
    """

    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, block: nn.Module, *inputs: Tensor | bool | None) -> Tensor:
        if self.on and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)
            return recomputed
        kept: Tensor = block(*inputs)
        return kept


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {"matrix": unit_rms}
"""W (L, out, in) -> what tiles are cut from."""
PADDINGS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]] = {"masked": masked}
"""Condition tokens and lengths -> tokens that are projected, and their mask or what is added to their logits."""
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean}
"""Final tokens (P, L, T, d) -> a vector of each layer (P, L, d)."""
ACTIVATIONS: dict[str, Activation] = {"identity": identity}
"""Of S in the response map."""
RECOMPUTATIONS: dict[str, Callable[[bool], Any]] = {"exact": Recomputation}
"""Whether gradient checkpointing is on -> what calls the blocks of a network."""
