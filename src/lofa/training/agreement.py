"""How well a predicted response map agrees with another, over P prompts and all their layers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lofa.training.losses import sum_over_layers

__all__ = ["Agreement", "agreement"]


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
def agreement(maps: Callable[[slice], tuple[Tensor, Tensor]], layers: int, elements: int, prompts: int) -> Agreement:
    """Compares two maps, walking the layers so that full maps need not fit in memory.

    Args:
        maps: slice of the layer axis -> predicted probability or 0/1, true 0/1, both (P, layers of the slice, out, in);
            predicted means probability > 0.5
        layers: L
        elements: out * in
        prompts: P
    """

    def counts(part: slice) -> Tensor:
        predicted, true = (value.flatten(1).float() for value in maps(part))
        said = (predicted > 0.5).float()
        return torch.stack(
            [(said * true).sum(1), said.sum(1), true.sum(1), (predicted * true).sum(1), predicted.square().sum(1)]
        )

    hits, said, real, inner, square = sum_over_layers(counts, layers, prompts * elements).double()
    return Agreement(
        precision=(hits.sum() / said.sum().clamp_min(1)).float(),
        recall=(hits.sum() / real.sum().clamp_min(1)).float(),
        cosine=(inner / (square * real).sqrt().clamp_min(1e-12)).mean().float(),
        density=(real.sum() / (prompts * layers * elements)).float(),
    )
