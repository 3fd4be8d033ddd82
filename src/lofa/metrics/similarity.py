"""Likeness of generated frames to reference frames: mean cosine in the feature space of a network handed in."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lofa.metrics.rows import ClipMetric

__all__ = ["IdentitySimilarity", "StyleSimilarity"]


class StyleSimilarity(ClipMetric):
    """Mean cosine of each generated frame to the mean direction of its references' frames; higher is better.

    Args:
        feature_extractor: uint8 (B, T, H, W, 3) -> features (B, T, D), one a frame. Published style scores use CSD
            (Somepalli et al., arXiv 2404.01292); `ClipEncoder.images` gives CLIP-I.
    """

    higher_is_better = True

    def __init__(self, feature_extractor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor

    def rows(self, generated: Tensor, real: Tensor) -> Tensor:
        """Likeness (B,) of clips (B, T, H, W, 3) to B references (B, T', H', W', 3), an image being a clip of T' = 1.

        Raises:
            ValueError: the numbers of clips differ, or features are not finite.
        """
        if len(generated) != len(real):
            raise ValueError(f"{len(generated)} generated clips but {len(real)} references")
        with torch.no_grad():
            cosines = self._cosines(self.feature_extractor(generated), self.feature_extractor(real))
        return cosines.double().mean(1)

    def _cosines(self, frames: Tensor, references: Tensor) -> Tensor:
        """Frames (B, T, D), references (B, T', D) -> (B, T)."""
        if not (frames.isfinite().all() and references.isfinite().all()):
            raise ValueError("the feature extractor gave features that are not finite")
        direction = normalize(normalize(references, dim=-1).mean(1), dim=-1)
        return torch.einsum("btd,bd->bt", normalize(frames, dim=-1), direction)


class IdentitySimilarity(StyleSimilarity):
    """As `StyleSimilarity`, with a face network whose features are NaN where it finds no face.

    A generated frame without a face scores 0; a reference frame without one is left out (ValueError where a reference
    shows no face at all). Published scores use ArcFace embeddings.
    """

    def _cosines(self, frames: Tensor, references: Tensor) -> Tensor:
        found = references.isfinite().all(-1)
        if not found.any(1).all():
            raise ValueError(f"no face found in the references {(~found.any(1)).nonzero().flatten().tolist()}")
        seen = frames.isfinite().all(-1)
        # zeros are neutral: a zero vector adds nothing to the references' mean and has cosine 0 to everything
        return super()._cosines(frames.where(seen[..., None], 0), references.where(found[..., None], 0))
