"""Pose accuracy: does the generated figure take the pose asked for?"""

from collections.abc import Callable

import torch
from torch import Tensor

from lofa.metrics.pixels import check_clips
from lofa.metrics.rows import ClipMetric

__all__ = ["PoseAccuracy", "PoseError"]


class _PoseMetric(ClipMetric):
    """Compares the joints that an estimator finds with those asked for.

    Args:
        estimator: uint8 clips (B, T, H, W, 3) -> joints (B, T, J, 2) in pixels, x before y; NaN where not found.
    """

    def __init__(self, estimator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.estimator = estimator

    @torch.no_grad()
    def _distances(self, generated: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """How far off each joint is (B, T, J), and the figure's size (B, T, 1), the longer side of its joints' box."""
        found = self.estimator(check_clips(generated))
        if found.shape != joints.shape:
            raise ValueError(f"the estimator found joints {tuple(found.shape)}, asked for were {tuple(joints.shape)}")
        if not joints.isfinite().all():
            raise ValueError("the joints asked for must be finite")
        return (found - joints).norm(dim=-1), (joints.amax(-2) - joints.amin(-2)).amax(-1, keepdim=True)


class PoseAccuracy(_PoseMetric):
    """PCK: share of joints found within `threshold` x the figure's size of where they should be; higher is better.

    The figure's size in a frame is the longer side of the box around its true joints (Yang and Ramanan, 2013). A joint
    that is not found counts as missed.
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self, estimator: Callable[[Tensor], Tensor], threshold: float = 0.2) -> None:
        super().__init__(estimator)
        self.threshold = threshold

    def rows(self, generated: Tensor, joints: Tensor) -> Tensor:
        """Shares (B,) of joints found, of uint8 clips (B, T, H, W, 3) and the joints asked for (B, T, J, 2) in pixels.

        Raises:
            ValueError: the estimator's joints have another shape than `joints`, or `joints` are not finite.
        """
        distance, size = self._distances(generated, joints)
        return (distance <= self.threshold * size).double().mean((1, 2))


class PoseError(_PoseMetric):
    """MPJPE in the image: mean distance of the joints found to those asked for, in pixels; lower is better.

    A joint that is not found counts as far off as the figure is large.
    """

    higher_is_better = False

    def rows(self, generated: Tensor, joints: Tensor) -> Tensor:
        """Mean distances (B,) in pixels; arguments and errors as of `PoseAccuracy.rows`."""
        distance, size = self._distances(generated, joints)
        return distance.where(distance.isfinite(), size).double().mean((1, 2))
