"""Pose accuracy: does the generated figure take the pose asked for?"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from lofa.metrics.pixels import check_clips

__all__ = ["PoseAccuracy"]


class PoseAccuracy(Metric):
    """PCK: share of joints found within `threshold` x the figure's size of where they should be; higher is better.

    The figure's size in a frame is the longer side of the box around its true joints (Yang and Ramanan, 2013).

    Args:
        estimator: uint8 clips (B, T, H, W, 3) -> joints (B, T, J, 2) in pixels, x before y; NaN where not found,
            which counts as missed.
        threshold: PCK's share of the figure's size.
    """

    higher_is_better = True
    full_state_update = False
    hits: Tensor
    count: Tensor

    def __init__(self, estimator: Callable[[Tensor], Tensor], threshold: float = 0.2) -> None:
        super().__init__()
        self.estimator = estimator
        self.threshold = threshold
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, generated: Tensor, joints: Tensor) -> None:
        """Adds uint8 clips (B, T, H, W, 3) and the joints asked for (B, T, J, 2), in pixels of the clip.

        Raises:
            ValueError: the estimator's joints have another shape than `joints`, or `joints` are not finite.
        """
        with torch.no_grad():
            found = self.estimator(check_clips(generated))
        if found.shape != joints.shape:
            raise ValueError(f"the estimator found joints {tuple(found.shape)}, asked for were {tuple(joints.shape)}")
        if not joints.isfinite().all():
            raise ValueError("the joints asked for must be finite")
        size = (joints.amax(-2) - joints.amin(-2)).amax(-1)
        near = (found - joints).norm(dim=-1) <= self.threshold * size[..., None]
        self.hits += near.sum().to(self.hits.device)
        self.count += near.numel()

    def compute(self) -> Tensor:
        """The share of joints ()."""
        return self.hits.double() / self.count
