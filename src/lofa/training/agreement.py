"""How well a predicted response map agrees with another, over P prompts and all their layers."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import Response
from lofa.training.losses import folded, response_target
from lofa.training.tiles import Tile, tiles_of

__all__ = ["Agreement", "agreement", "maps_of"]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of two maps, scalars ().

    Attributes:
        precision: true positives of what was predicted to respond (0 where nothing was)
        recall: true positives of what responds (0 where nothing does)
        cosine: of the two whole maps of a prompt, mean over prompts
        density: fraction that responds; a constant map reaches the cosine sqrt(density), so compare with that
    """

    precision: Tensor
    recall: Tensor
    cosine: Tensor
    density: Tensor

    def named(self, prefix: str) -> dict[str, Tensor]:
        """`{prefix}_precision` ... for a logger."""
        return {f"{prefix}_{name}": getattr(self, name) for name in ("precision", "recall", "cosine", "density")}


@torch.no_grad()
def agreement(parts: Iterable[tuple[Callable[[Tile], tuple[Tensor, Tensor]], tuple[int, int, int, int]]]) -> Agreement:
    """Compares two maps tile by tile, so that full maps need not fit in memory.

    Args:
        parts: for the layers of each shape: tile -> predicted probability or 0/1, true 0/1, both (P, layers, rows, in)
            of the tile (predicted means probability > 0.5); and (P, L, out, in) of the whole maps
    """
    found, entries = [], 0
    for maps, shape in parts:
        entries += math.prod(shape)
        for tile in tiles_of(*shape):
            predicted, true = (value.flatten(1).float() for value in maps(tile))
            positive = (predicted > 0.5).float()
            sums = [
                (positive * true).sum(1),
                positive.sum(1),
                true.sum(1),
                (predicted * true).sum(1),
                predicted.square().sum(1),
            ]
            found.append(torch.stack(sums).double())
    hits, positive, real, inner, square = torch.stack(found).sum(0)
    return Agreement(
        precision=(hits.sum() / positive.sum().clamp_min(1)).float(),
        recall=(hits.sum() / real.sum().clamp_min(1)).float(),
        cosine=(inner / (square * real).sqrt().clamp_min(1e-12)).mean().float(),
        density=(real.sum() / entries).float(),
    )


def maps_of(
    predicted: Response | LoraBatch, true: LoraBatch, weights: Sequence[Tensor], tau: float
) -> Callable[[Tile], tuple[Tensor, Tensor]]:
    """For `agreement`: tile -> what `predicted` gives (stage I) or implies (an adapter), what `true` implies."""

    def map_of(what: Response | LoraBatch) -> Callable[[Tile], Tensor]:
        if isinstance(what, Response):
            return lambda tile: what.probability(tile.layers, tile.rows)
        product = folded(what)
        return lambda tile: response_target(tile.product(*product), tile.of(weights), tau)

    first, second = map_of(predicted), map_of(true)
    return lambda tile: (first(tile), second(tile))
