"""How well a predicted response map agrees with another, over P prompts and all their layers."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import Response
from lofa.training.losses import folded, response_target
from lofa.training.tiles import Tile, tiles_of

__all__ = ["agreement"]


@torch.no_grad()
def agreement(
    parts: Iterable[tuple[Response | LoraBatch, Sequence[Tensor], LoraBatch]], tau: float
) -> dict[str, Tensor]:
    """Compares two maps tile by tile, so that full maps need not fit in memory.

    Args:
        parts: for the layers of each shape: the response (predicted where its probability is above 0.5), or adapters
            (P, L) that imply one; the L matrices W (out, in); the adapters (P, L) that imply the true map
        tau: relative change of a weight that counts as a response

    Returns:
        scalars ():
            precision: true positives of what was predicted to respond (0 where nothing was)
            recall: true positives of what responds (0 where nothing does)
            cosine: of the two whole maps of a prompt, mean over prompts
            density: fraction that responds; a constant map reaches the cosine sqrt(density), so compare with that
    """
    found, entries = [], 0
    for prediction, weights, truth in parts:
        shape = (*truth.alpha.shape, *truth.shape)
        entries += math.prod(shape)
        predicted_of, true_of = _map_of(prediction, weights, tau), _map_of(truth, weights, tau)
        with torch.autocast(truth.A.device.type, enabled=False):
            for tile in tiles_of(*shape):
                predicted, true = (map_of(tile).flatten(1).float() for map_of in (predicted_of, true_of))
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
    return {
        "precision": (hits.sum() / positive.sum().clamp_min(1)).float(),
        "recall": (hits.sum() / real.sum().clamp_min(1)).float(),
        "cosine": (inner / (square * real).sqrt().clamp_min(1e-12)).mean().float(),
        "density": (real.sum() / entries).float(),
    }


def _map_of(what: Response | LoraBatch, weights: Sequence[Tensor], tau: float) -> Callable[[Tile], Tensor]:
    """Tile -> its response map (P, l, rows, in): a probability, or 0 and 1."""
    if isinstance(what, Response):
        return lambda tile: what.probability(tile.layers, tile.rows)
    product = folded(what)
    return lambda tile: response_target(tile.product(*product), tile.of(weights), tau)
