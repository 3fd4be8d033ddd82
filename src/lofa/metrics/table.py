"""The metrics that a comparison can report, one line of `METRICS` each.

What a metric needs is named as the arguments of its `rows` are, beside the generated clips themselves:

    losses    denoising losses of the scored clips; a metric of losses looks at no clip
    prompts   captions
    real      the real clips that the generated ones stand for
    joints    pose sequences (B, T, J, 2) asked for, in pixels
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lofa.errors import ConfigError
from lofa.metrics.clip import ClipScore, load_clip
from lofa.metrics.frechet import FrechetVideoDistance
from lofa.metrics.motion import DynamicDegree
from lofa.metrics.pose import PoseAccuracy, PoseError
from lofa.metrics.rows import ClipMetric, DenoisingLoss, SetMetric
from lofa.metrics.video import load_video_features

__all__ = ["METRICS", "Metric", "build_metrics", "find_metrics"]


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is made.

    Attributes:
        title: in tables.
        kind: the torchmetrics class; it knows whether higher is better.
        about: how it is measured, for the report.
        needs: see above.
        network: which of `conf/metrics` it looks with; None: no network.
        digits: after the point, in tables.
    """

    title: str
    kind: type[ClipMetric] | type[SetMetric]
    about: str
    needs: tuple[str, ...] = ()
    network: str | None = None
    digits: int = 4

    @property
    def higher_is_better(self) -> bool:
        """Direction."""
        return bool(self.kind.higher_is_better)

    @property
    def arrow(self) -> str:
        """Title with the direction."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


METRICS = {
    "fvd": Metric(
        "FVD",
        FrechetVideoDistance,
        "Fréchet distance of video features between the generated clips and the real clips they stand for, these sent "
        "through the backbone's autoencoder; it depends on the feature network and on the number of clips, so compare "
        "within this table only; its interval is the bootstrap's spread about the value",
        ("real",),
        "video",
        0,
    ),
    "clip_t": Metric("CLIP-T", ClipScore, "mean cosine of a clip's frames and its caption", ("prompts",), "clip", 3),
    "denoising_loss": Metric(
        "denoising loss",
        DenoisingLoss,
        "the backbone's own error on the sibling clips under their own captions, at stratified noise levels and noise "
        "that are the same for all methods; mean over a prompt's clips, then over prompts",
        ("losses",),
    ),
    "dynamic_degree": Metric(
        "dynamic degree",
        DynamicDegree,
        "share of clips in which something moves enough (VBench's thresholds on flow found by block matching)",
        digits=2,
    ),
    "pose_accuracy": Metric(
        "pose accuracy", PoseAccuracy, "share of joints found near where they were asked for (PCK)", ("joints",), "pose"
    ),
    "mpjpe": Metric(
        "joint error, pixels", PoseError, "mean distance of the joints found to those asked for", ("joints",), "pose", 2
    ),
}
_LOADERS = {"clip": load_clip, "video": load_video_features}  # what ships is loaded where no folder is given


def find_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """The entries of these names, in this order.

    Raises:
        ConfigError: an unknown metric, one named twice, or none.
    """
    names = list(names)
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"no metric {name!r}; there are: {', '.join(METRICS)}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"metrics {', '.join(names) or 'none'}: name at least one, each once")
    return {name: METRICS[name] for name in names}


def build_metrics(
    names: Iterable[str], networks: Mapping[str, Any], device: str = "cpu"
) -> dict[str, ClipMetric | SetMetric]:
    """The metrics of these names, each network loaded once.

    Args:
        names: keys of `METRICS`.
        networks: network -> a folder, None for the one that ships, or a callable that is taken as it is.
        device: for the networks that are loaded here.

    Raises:
        ConfigError: as `find_metrics`, or a metric whose network is not given and does not ship.
        LofaError: a folder without such a network.
    """
    loaded: dict[str, Any] = {}
    made: dict[str, ClipMetric | SetMetric] = {}
    for name, metric in find_metrics(names).items():
        key = metric.network
        if key is not None and key not in loaded:
            loaded[key] = _load(name, key, networks.get(key), device)
        make: Any = metric.kind
        made[name] = make() if key is None else make(loaded[key])
    return made


def _load(name: str, network: str, given: Any, device: str) -> Any:
    if callable(given):
        return given
    if network not in _LOADERS:
        what = "none ships with the project" if given is None else f"{given!r} is no callable"
        raise ConfigError(f"metric {name} looks with a network of its own, {network!r}, and {what}")
    return _LOADERS[network](given, device)
