"""Scores of generated clips, as torchmetrics classes whose `rows` give one number a clip.

Clips enter as uint8 (B, T, H, W, 3), text as a list of strings. The metric networks are handed in, so the same classes
serve the small shipped ones and the large published ones. `METRICS` is the table of what a comparison can report.
"""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.metrics.clip import ClipEncoder, ClipScore, load_clip
    from lofa.metrics.frechet import FrechetVideoDistance, frechet_distance, frechet_of_features
    from lofa.metrics.motion import DynamicDegree, block_flow, top_flow
    from lofa.metrics.pose import PoseAccuracy, PoseError
    from lofa.metrics.rows import ClipMetric, DenoisingLoss, SetMetric
    from lofa.metrics.similarity import IdentitySimilarity, StyleSimilarity
    from lofa.metrics.table import METRICS, Metric, build_metrics, find_metrics
    from lofa.metrics.video import VideoFeatures, load_video_features
else:
    __getattr__, __dir__ = lazy(__name__, "clip frechet motion pose rows similarity table video")

__all__ = [
    "METRICS",
    "ClipEncoder",
    "ClipMetric",
    "ClipScore",
    "DenoisingLoss",
    "DynamicDegree",
    "FrechetVideoDistance",
    "IdentitySimilarity",
    "Metric",
    "PoseAccuracy",
    "PoseError",
    "SetMetric",
    "StyleSimilarity",
    "VideoFeatures",
    "block_flow",
    "build_metrics",
    "find_metrics",
    "frechet_distance",
    "frechet_of_features",
    "load_clip",
    "load_video_features",
    "top_flow",
]
