"""Fréchet distance of two Gaussians, and the Fréchet video distance.

    d^2 = |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2

With any roots S = R^T R the last trace is the nuclear norm of R1 R2^T: no square root of a matrix that is not
symmetric, no imaginary parts, and singular covariances (fewer clips than feature dimensions) are nothing special.
FVD (Unterthiner et al., arXiv 1812.01717) is d^2 between the features of generated and of real clips.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lofa.metrics.rows import SetMetric

__all__ = ["FrechetVideoDistance", "frechet_distance", "frechet_of_features"]


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    """Squared Fréchet (Wasserstein-2) distance of N(mu1, sigma1) and N(mu2, sigma2), computed in float64.

    Args:
        mu1, mu2: means (D,); tensors or arrays.
        sigma1, sigma2: covariances (D, D), symmetric and positive semi-definite up to rounding.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    means = [torch.as_tensor(mu, dtype=torch.float64) for mu in (mu1, mu2)]
    sigmas = [torch.as_tensor(sigma, dtype=torch.float64) for sigma in (sigma1, sigma2)]
    size = means[0].numel()
    if any(mu.shape != (size,) for mu in means) or any(sigma.shape != (size, size) for sigma in sigmas):
        shapes = [tuple(value.shape) for value in (*means, *sigmas)]
        raise ValueError(f"means must be (D,) and covariances (D, D) of one D, not {shapes}")
    if not all(value.isfinite().all() for value in (*means, *sigmas)):
        raise ValueError("means and covariances must be finite")
    roots = []
    for sigma in sigmas:
        values, vectors = torch.linalg.eigh((sigma + sigma.T) / 2)
        roots.append(values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return float(_distance(means[0], roots[0], means[1], roots[1]))


def frechet_of_features(first: Tensor, second: Tensor) -> Tensor:
    """Fréchet distance (...) of features (..., n, D) and (..., m, D), unbiased covariances, leading axes batched.

    Raises:
        ValueError: fewer than two rows on a side.
    """
    if min(first.shape[-2], second.shape[-2]) < 2:
        raise ValueError(f"a Fréchet distance needs two clips a side, not {first.shape[-2]} and {second.shape[-2]}")
    means, roots = [], []
    for features in (first.double(), second.double()):
        mean = features.mean(-2)
        root = (features - mean.unsqueeze(-2)) / (features.shape[-2] - 1) ** 0.5
        if root.shape[-2] > root.shape[-1]:
            root = torch.linalg.qr(root, mode="r").R
        means.append(mean)
        roots.append(root)
    return _distance(means[0], roots[0], means[1], roots[1])


def _distance(mu1: Tensor, root1: Tensor, mu2: Tensor, root2: Tensor) -> Tensor:
    """Roots R (..., k, D) with R^T R the covariance."""
    shared = torch.linalg.svdvals(root1 @ root2.mT).sum(-1)
    traces = root1.square().sum((-2, -1)) + root2.square().sum((-2, -1))
    return ((mu1 - mu2).square().sum(-1) + traces - 2 * shared).clamp(min=0)


class FrechetVideoDistance(SetMetric):
    """FVD of all generated against all real clips seen; lower is better.

    Args:
        feature_extractor: uint8 clips (B, T, H, W, 3) -> features (B, D), for example `load_video_features()`.
            The value depends on it: numbers are comparable only under the same network (published ones use I3D).
    """

    higher_is_better = False

    def __init__(self, feature_extractor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor

    @torch.no_grad()
    def rows(self, clips: Tensor) -> Tensor:
        """Features (B, D) of uint8 clips (B, T, H, W, 3)."""
        return self.feature_extractor(clips)

    compare = staticmethod(frechet_of_features)
