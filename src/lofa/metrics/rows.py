"""Two kinds of metric, so that a comparison can draw prompts again without generating or looking again.

    clip metric   a number a clip: rows (B,); its value is their mean
    set metric    features a clip: rows (B, D); its value compares the generated rows with the real ones

`rows` takes what `update` takes, but of a set metric the clips of one side alone.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["ClipMetric", "DenoisingLoss", "SetMetric"]


class ClipMetric(Metric):
    """Mean over clips of `rows`, in float64."""

    full_state_update = False
    rows: Callable[..., Tensor]
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._update_signature = signature(self.rows)  # so that a MetricCollection gives each what it takes
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *given: Any, **named: Any) -> None:
        """Adds clips; arguments and errors as of `rows`."""
        rows = self.rows(*given, **named)
        self.total += rows.double().sum().to(self.total.device)
        self.count += len(rows)

    def compute(self) -> Tensor:
        """The mean () in float64."""
        return self.total / self.count


class SetMetric(Metric):
    """`compare` of the rows of all generated and all real clips."""

    full_state_update = False
    rows: Callable[[Tensor], Tensor]
    compare: Callable[[Tensor, Tensor], Tensor]
    """Values (...) of generated (..., n, D) and real rows (..., m, D), leading axes batched."""
    generated: list[Tensor]
    real: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("generated", [], dist_reduce_fx="cat")
        self.add_state("real", [], dist_reduce_fx="cat")

    def update(self, generated: Tensor, real: Tensor) -> None:
        """Adds uint8 clips (B, T, H, W, 3); the two sides need not have the same number of clips."""
        self.generated.append(self.rows(generated))
        self.real.append(self.rows(real))

    def compute(self) -> Tensor:
        """The value () in float64."""
        return self.compare(dim_zero_cat(self.generated), dim_zero_cat(self.real))


class DenoisingLoss(ClipMetric):
    """Mean of denoising losses that the backbone has measured; lower is better."""

    higher_is_better = False

    def rows(self, losses: Tensor) -> Tensor:
        """Losses (B,), one a clip, as they are."""
        return losses
