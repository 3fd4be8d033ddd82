"""Pose accuracy: does the generated figure take the pose asked for?"""

from collections.abc import Callable

import torch
from torch import Tensor

from lofa.metrics.pixels import check_clips
from lofa.metrics.rows import ClipMetric

__all__ = ["PoseAccuracy", "PoseError"]


class PoseAccuracy(ClipMetric):
    """PCK: share of joints found within `threshold` x the figure's size of where they should be; higher is better.

    The figure's size in a frame is the longer side of the box around its true joints (Yang and Ramanan, 2013).

    Args:
        estimator: uint8 clips (B, T, H, W, 3) -> joints (B, T, J, 2) in pixels, x before y; NaN where not found,
            which counts as missed.
        threshold: PCK's share of the figure's size.
    """

    higher_is_better = True

    def __init__(self, estimator: Callable[[Tensor], Tensor], threshold: float = 0.2) -> None:
        super().__init__()
        self.estimator = estimator
        self.threshold = threshold

    def rows(self, generated: Tensor, joints: Tensor) -> Tensor:
        """Shares (B,) of joints found, of uint8 clips (B, T, H, W, 3) and the joints asked for (B, T, J, 2) in pixels.

        Raises:
            ValueError: the estimator's joints have another shape than `joints`, or `joints` are not finite.
        """
        found = _found(self.estimator, generated, joints)
        near = (found - joints).norm(dim=-1) <= self.threshold * _size(joints)
        return near.double().mean((1, 2))


class PoseError(ClipMetric):
    """MPJPE in the image: mean distance of the joints found to those asked for, in pixels; lower is better.

    A joint that is not found counts as far off as the figure is large: the longer side of the box around its true
    joints in that frame.

    Args:
        estimator: as of `PoseAccuracy`.
    """

    higher_is_better = False

    def __init__(self, estimator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.estimator = estimator

    def rows(self, generated: Tensor, joints: Tensor) -> Tensor:
        """Mean distances (B,) in pixels; arguments and errors as of `PoseAccuracy.rows`."""
        found = _found(self.estimator, generated, joints)
        distance = (found - joints).norm(dim=-1)
        return distance.where(distance.isfinite(), _size(joints)).double().mean((1, 2))


def _size(joints: Tensor) -> Tensor:
    """Of the figure (B, T, 1): the longer side of the box around its joints."""
    return (joints.amax(-2) - joints.amin(-2)).amax(-1, keepdim=True)


@torch.no_grad()
def _found(estimator: Callable[[Tensor], Tensor], generated: Tensor, joints: Tensor) -> Tensor:
    found = estimator(check_clips(generated))
    if found.shape != joints.shape:
        raise ValueError(f"the estimator found joints {tuple(found.shape)}, asked for were {tuple(joints.shape)}")
    if not joints.isfinite().all():
        raise ValueError("the joints asked for must be finite")
    return found
