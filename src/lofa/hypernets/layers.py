"""The frozen layers that a hypernetwork reads, and what it makes of their weights before any prompt.

W is read in chunks of layers of one shape, so that a stack of W exists for one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["FrozenLayer", "Prepared", "prepare"]

_CHUNK = 2**24
"""Entries of W in a chunk, at least one layer: 7 layers of 1536 x 1536."""


@dataclass(frozen=True, eq=False)
class FrozenLayer:
    """An adapted layer.

    weight: W (out, in), the tensor that its owner holds. depth, kind: ids of its block and of what it is in its block.
    """

    name: str
    weight: Tensor
    depth: int
    kind: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weight.shape[0], self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a network made of the frozen weights of L layers of one shape, before any prompt."""

    tokens: Tensor
    """(1, L, T, d)"""
    shape: tuple[int, int]
    """(out, in) of the layers"""
    layers: tuple[str, ...]
    """their names"""

    def select(self, layers: Sequence[str]) -> Prepared:
        """Some of the layers."""
        if tuple(layers) == self.layers:
            return self
        place = {name: i for i, name in enumerate(self.layers)}
        chosen = torch.tensor([place[name] for name in layers], device=self.tokens.device)
        return Prepared(self.tokens[:, chosen], self.shape, tuple(layers))


class _Reader(Protocol):
    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """Tokens (l, T, d) of a chunk of layers of one shape."""

    def begin(self, tokens: Tensor) -> Tensor:
        """Tokens (L, T, d) of all layers of one shape -> (1, L, T, d) as far as they depend on W alone."""


def prepare(networks: Sequence[_Reader], layers: Iterable[FrozenLayer]) -> list[list[Prepared]]:
    """What each network makes of the layers: a `Prepared` for each shape, shapes in the order of their first layer.

    Each W is read once, by all networks.
    """
    names: dict[tuple[int, int], list[str]] = {}
    waiting: dict[tuple[int, int], list[FrozenLayer]] = {}
    pieces: dict[tuple[int, int], list[list[Tensor]]] = {}

    def read(shape: tuple[int, int]) -> None:
        chunk = waiting.pop(shape)
        for network, made in zip(networks, pieces[shape], strict=True):
            made.append(network.embed(chunk))

    for layer in layers:
        shape = layer.shape
        names.setdefault(shape, []).append(layer.name)
        pieces.setdefault(shape, [[] for _ in networks])
        chunk = waiting.setdefault(shape, [])
        chunk.append(layer)
        if (len(chunk) + 1) * layer.weight.numel() > _CHUNK:
            read(shape)
    for shape in list(waiting):
        read(shape)
    return [
        [
            Prepared(network.begin(torch.cat(made)), shape, tuple(names[shape]))
            for shape, made in zip(pieces, of_network, strict=True)
        ]
        for network, of_network in zip(networks, zip(*pieces.values(), strict=True), strict=True)
    ]
