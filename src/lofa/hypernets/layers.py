"""The frozen layers that a hypernetwork reads, and what it makes of their weights before any prompt.

W is read in chunks of layers of one shape, so that a stack of W exists for one chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lofa.hypernets.config import TrunkConfig

__all__ = ["FrozenLayer", "Prepared", "check_weights", "id_embeddings", "layer_ids", "prepare"]

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


def check_weights(weights: Iterable[Tensor], names: Sequence[str]) -> None:
    """Raises ValueError naming the matrices `(out, in)` with NaN, infinity or a column of zeros; they are read in turn.

    No trained layer has such a column; a file that was read wrongly has.
    """
    found = []
    for matrix in weights:
        largest = torch.linalg.vector_norm(matrix, math.inf, dim=0)
        found.append(torch.stack([~largest.isfinite().all(), (largest == 0).any()]))
    for wrong, what in zip(torch.stack(found).T.tolist(), ("NaN or infinity", "columns of zeros"), strict=True):
        bad = [name for name, is_wrong in zip(names, wrong, strict=True) if is_wrong]
        if bad:
            raise ValueError(f"{len(bad)} of {len(names)} weight matrices hold {what}: {', '.join(bad[:3])}")


def id_embeddings(config: TrunkConfig) -> tuple[nn.Embedding, nn.Embedding]:
    """Learned vectors of depth and of kind, which tell layers apart."""
    depth, kind = (nn.Embedding(count, config.d_model) for count in (config.num_depths, config.num_kinds))
    for table in (depth, kind):
        nn.init.trunc_normal_(table.weight, std=0.02)
    return depth, kind


def layer_ids(layers: Sequence[FrozenLayer], depths: int, kinds: int) -> tuple[Tensor, Tensor]:
    """Ids of depth and kind `(L,)`, on the device of the weights.

    Raises ValueError where one is outside of 0..depths - 1 or 0..kinds - 1.
    """
    depth, kind = [layer.depth for layer in layers], [layer.kind for layer in layers]
    for name, ids, count in (("depth", depth, depths), ("kind", kind, kinds)):
        if not 0 <= min(ids) <= max(ids) < count:
            raise ValueError(f"{name} must lie in 0..{count - 1}; got {min(ids)}..{max(ids)}")
    device = layers[0].weight.device
    return torch.tensor(depth, device=device), torch.tensor(kind, device=device)


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

    Each W is read once, by all networks. Raises ValueError as `check_weights`, and where a network refuses a layer.
    """
    names: dict[tuple[int, int], list[str]] = {}
    chunks: dict[tuple[int, int], list[FrozenLayer]] = {}
    tokens: dict[tuple[int, int], list[list[Tensor]]] = {}

    def read(shape: tuple[int, int]) -> None:
        chunk = chunks.pop(shape)
        check_weights([layer.weight for layer in chunk], [layer.name for layer in chunk])
        tokens.setdefault(shape, []).append([network.embed(chunk) for network in networks])

    for layer in layers:
        shape = layer.shape
        names.setdefault(shape, []).append(layer.name)
        chunk = chunks.setdefault(shape, [])
        chunk.append(layer)
        if (len(chunk) + 1) * layer.weight.numel() > _CHUNK:
            read(shape)
    for shape in list(chunks):
        read(shape)
    return [
        [
            Prepared(network.begin(torch.cat([of[i] for of in tokens[shape]])), shape, tuple(names[shape]))
            for shape in names
        ]
        for i, network in enumerate(networks)
    ]
