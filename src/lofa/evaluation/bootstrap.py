"""Paired bootstrap over prompts: what a metric, or the difference of two methods, would be on other prompts.

Prompts are drawn with replacement, with all their clips; the same draws serve every method, so a difference is taken
draw by draw. A 95 % interval holds the 2.5th to 97.5th percentile of the draws, shifted so that their mean is the value
itself. For means that shift is nothing. For a distance of two sets it is needed: drawn again, a set of clips has
repeats and so a poorer covariance, every draw lies above the value, and the plain percentile interval does not even
contain it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Interval", "compare_draws", "draw_units", "interval", "mean_draws", "mean_over_units"]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def draw_units(units: int, draws: int, seed: int) -> Tensor:
    """Indices (draws, units) of units drawn with replacement."""
    return torch.randint(units, (draws, units), generator=torch.Generator().manual_seed(seed))


def interval(value: float, draws: Tensor, least: float | None = None, most: float | None = None) -> Interval:
    """The 95 % interval of `value`, which is `least` to `most`, from draws (R,) of it."""
    centred = draws.double() - draws.double().mean() + value
    low, high = centred.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low if least is None else max(low, least), high if most is None else min(high, most))


def mean_over_units(values: Tensor, unit: Tensor, units: int) -> Tensor:
    """Mean (units,) in float64 of the values (n,) of each unit, `unit` (n,) saying whose each is."""
    total = torch.zeros(units, dtype=torch.float64).index_add_(0, unit, values.double())
    return total / torch.bincount(unit, minlength=units)


def mean_draws(means: Tensor, indices: Tensor) -> Tensor:
    """Means (R,) of drawn units; every prompt weighs the same, whatever its number of clips."""
    return means[indices].mean(1)


def compare_draws(
    compare: Callable[[Tensor, Tensor], Tensor],
    generated: Sequence[Tensor],
    real: Tensor,
    unit: Tensor,
    indices: Tensor,
) -> Tensor:
    """Values (R, M) of M methods over drawn units; generated and real clips are drawn together.

    Args:
        compare: rows (M, k, D) and (k, D) of k drawn clips -> values (M,).
        generated: rows (n, D) of each method.
        real: (n, D), row by row the clips that the generated ones stand for.
        unit: (n,) whose each row is.
        indices: (R, U) as from `draw_units`.
    """
    rows_of = [(unit == u).nonzero().flatten() for u in range(indices.shape[1])]
    stacked = torch.stack(list(generated)).double()
    real = real.double()
    draws = [torch.cat([rows_of[u] for u in drawn]) for drawn in indices.tolist()]
    return torch.stack([compare(stacked[:, chosen], real[chosen]) for chosen in draws])
