"""Scores of generated clips, as torchmetrics classes and as functions that give one number a clip.

Clips enter as uint8 (B, T, H, W, 3), text as a list of strings. The networks that judge are handed in, so the same
classes serve the small shipped ones and the large published ones.
"""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.metrics.clip import ClipEncoder, ClipScore, clip_scores, load_clip
    from lofa.metrics.frechet import FrechetVideoDistance, frechet_distance, frechet_of_features
    from lofa.metrics.motion import DynamicDegree, block_flow, top_flow
    from lofa.metrics.pose import PoseAccuracy
    from lofa.metrics.similarity import IdentitySimilarity, StyleSimilarity
    from lofa.metrics.video import VideoFeatures, load_video_features
else:
    __getattr__, __dir__ = lazy(__name__, "clip frechet motion pose similarity video")

__all__ = [
    "ClipEncoder",
    "ClipScore",
    "DynamicDegree",
    "FrechetVideoDistance",
    "IdentitySimilarity",
    "PoseAccuracy",
    "StyleSimilarity",
    "VideoFeatures",
    "block_flow",
    "clip_scores",
    "frechet_distance",
    "frechet_of_features",
    "load_clip",
    "load_video_features",
    "top_flow",
]
