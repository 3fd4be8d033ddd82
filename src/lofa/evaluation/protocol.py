"""The comparison itself: methods, cases and metrics in, the content of metrics.json and of the report out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor

from lofa.evaluation.cases import Case, Protocol
from lofa.evaluation.methods import Comparison, Method, shuffled
from lofa.evaluation.scoring import Metrics, Scorer, Scores
from lofa.evaluation.summary import summarize
from lofa.metrics import ClipMetric

__all__ = ["Evaluation", "PromptScores", "evaluate"]


@dataclass(frozen=True)
class PromptScores:
    """Mean scores of one case, by method: denoising losses, and by clip metric."""

    case: Case
    losses: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome.

    Attributes:
        metrics: the content of metrics.json.
        prompts: scores of each case.
        clips: (caption, {"real" or method: uint8 (T, H, W, 3)}) of each clip that the report shows.
        methods: those compared, in the order of the tables.
    """

    metrics: dict[str, Any]
    prompts: list[PromptScores]
    clips: list[tuple[str, dict[str, Tensor]]]
    methods: list[Method]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(later, earlier) method of each difference that no shuffled adapter is part of."""
        names = [method.name for method in self.methods if method.role != "shuffled"]
        return [(later, earlier) for place, later in enumerate(names) for earlier in names[:place]]


def evaluate(comparison: Comparison, methods: Sequence[Method], metrics: Metrics, protocol: Protocol) -> Evaluation:
    """Scores all methods on all cases, and the steering margin of those with adapters by prompt.

    Args:
        comparison: of at least two cases.
        methods: of different names; differences are taken of each later one to each earlier one, base and trained
            LoRAs first.
        metrics: as `lofa.metrics.build_metrics` makes them.
        protocol: how.
    """
    ordered = sorted(methods, key=lambda method: {"base": 0, "trained": 1}.get(method.role, 2))
    names = [method.name for method in ordered]
    controls = _controls(ordered, comparison.cases)
    new = [control for control in controls.values() if control.name not in names]
    progress = Progress(*Progress.get_default_columns(), MofNCompleteColumn())
    scorer = Scorer(comparison, metrics, protocol, lambda clips: progress.advance(task, clips))
    total = len(scorer.generated) * (len(ordered) + 1) + len(scorer.scored) * (len(ordered) + len(new))
    task = progress.add_task("evaluate", total=total)
    scores: dict[str, Scores] = {}
    mixed: dict[str, Tensor] = {}
    with progress:
        real = scorer.real()
        for method in ordered:
            progress.update(task, description=f"evaluate {method.name}")
            scores[method.name] = scorer.method(method)
        for name, control in controls.items():
            progress.update(task, description=f"evaluate {control.name}")
            mixed[name] = scores[control.name].losses if control.name in scores else scorer.losses(control)
    clips = [
        (sample.caption, {name: one.shown[sample.id] for name, one in {"real": real, **scores}.items()})
        for _, sample in scorer.generated
        if sample.id in scorer.shown
    ]
    metrics_json = summarize(scorer, ordered, scores, real, mixed)
    return Evaluation(metrics_json, _prompts(scorer, scores), clips, ordered)


def _controls(methods: Sequence[Method], cases: Sequence[Case]) -> dict[str, Method]:
    """Name of each method with adapters by prompt -> the same shuffled; none where all cases are of one class."""
    if len({case.group for case in cases}) < 2:
        return {}
    return {
        method.name: shuffled(method, cases) for method in methods if method.by_prompt and method.role != "shuffled"
    }


def _prompts(scorer: Scorer, scores: Mapping[str, Scores]) -> list[PromptScores]:
    losses = {name: scorer.means(one.losses).tolist() for name, one in scores.items()}
    by_metric = {
        key: {name: scorer.means(one.rows[key], key).tolist() for name, one in scores.items()}
        for key, metric in scorer.metrics.items()
        if isinstance(metric, ClipMetric)
    }
    return [
        PromptScores(
            case,
            {name: values[place] for name, values in losses.items()},
            {key: {name: values[place] for name, values in rows.items()} for key, rows in by_metric.items()},
        )
        for place, case in enumerate(scorer.cases)
    ]
