"""From the scores of clips to metrics.json: values, differences, steering margins and gaps, each with its interval.

A clip metric is the mean over prompts of the mean over a prompt's clips; a set metric compares all generated clips with
the real ones they stand for. Intervals: `lofa.evaluation.bootstrap`; of the seconds, low and high are the least and the
most measured.

    steering margin   denoising loss with the adapter of another class, minus that with one's own: what the adapters owe
                      to their prompts
    gap closed        share of what the best trained LoRA gains over the base, in denoising loss, that a method gains
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lofa.evaluation.bootstrap import Interval, compare_draws, draw_units, interval, mean_draws
from lofa.evaluation.methods import Method, Timing
from lofa.evaluation.scoring import Scorer, Scores
from lofa.metrics import SetMetric

__all__ = ["SECONDS", "summarize"]

SECONDS = "seconds"
"""Beside the metrics, of every method and difference in metrics.json."""


@dataclass(frozen=True, eq=False)
class _Figure:
    """A value and its draws (R,)."""

    value: float
    draws: Tensor

    def minus(self, other: "_Figure") -> "_Figure":
        return _Figure(self.value - other.value, self.draws - other.draws)

    def over(self, other: "_Figure") -> "_Figure":
        return _Figure(self.value / other.value, self.draws / other.draws)

    def to_json(self, metric: Metric | None = None) -> dict[str, float]:
        bounds = () if metric is None else (metric.plot_lower_bound, metric.plot_upper_bound)
        return asdict(interval(self.value, self.draws, *bounds))


def summarize(
    scorer: Scorer,
    methods: Sequence[Method],
    scores: Mapping[str, Scores],
    real: Scores,
    mixed: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        scorer: what scored.
        methods: in the order of the tables.
        scores: by name of the method.
        real: of the real clips.
        mixed: name of a method -> denoising losses (n,) of the same adapters shuffled.
    """
    cases, protocol = scorer.cases, scorer.protocol
    indices = draw_units(len(cases), protocol.draws, protocol.seed)

    def mean(losses: Tensor, metric: str | None = None) -> _Figure:
        means = scorer.means(losses, metric)
        return _Figure(float(means.mean()), mean_draws(means, indices))

    figures: dict[str, dict[str, _Figure]] = {method.name: {} for method in methods}
    for key, metric in scorer.metrics.items():
        if isinstance(metric, SetMetric):
            rows, reference = {name: one.rows[key] for name, one in scores.items()}, real.rows[key]
            draws = compare_draws(metric.compare, list(rows.values()), reference, scorer.units(key), indices)
            for place, name in enumerate(rows):
                figures[name][key] = _Figure(float(metric.compare(rows[name], reference)), draws[:, place])
        else:
            for name, one in scores.items():
                figures[name][key] = mean(one.rows[key], key)
    losses = {name: mean(one.losses) for name, one in scores.items()}
    timings = {method.name: method.timing for method in methods}
    return {
        "methods": {
            name: {key: one.to_json(scorer.metrics[key]) for key, one in row.items()}
            | {SECONDS: _seconds(timings[name])}
            for name, row in figures.items()
        },
        "differences": {
            f"{later}-{earlier}": {key: row[key].minus(figures[earlier][key]).to_json() for key in row}
            | {SECONDS: _seconds_between(timings[later], timings[earlier])}
            for place, (later, row) in enumerate(figures.items())
            for earlier in list(figures)[:place]
        },
        "steering_margin": {name: mean(other).minus(losses[name]).to_json() for name, other in mixed.items()},
        "gap_closed": _gap_closed(methods, losses),
        "real": {
            key: mean(rows, key).to_json(scorer.metrics[key])
            for key, rows in real.rows.items()
            if not isinstance(scorer.metrics[key], SetMetric) and len(rows)
        },
        "held_out": {
            "classes": len({case.group for case in cases}),
            "prompts": len(cases),
            "clips": len(scorer.scored),
            "generated": len(scorer.generated),
            "feature_size": {key: rows.shape[1] for key, rows in real.rows.items() if rows.ndim == 2},
        },
    }


def _seconds(timing: Timing) -> dict[str, Any]:
    extra = {} if timing.in_batch is None else {"in_batch": timing.in_batch}
    return asdict(Interval(timing.median, min(timing.seconds), max(timing.seconds))) | extra | {"how": timing.how}


def _seconds_between(later: Timing, earlier: Timing) -> dict[str, float]:
    low, high = min(later.seconds) - max(earlier.seconds), max(later.seconds) - min(earlier.seconds)
    return asdict(Interval(later.median - earlier.median, low, high))


def _gap_closed(methods: Sequence[Method], losses: Mapping[str, _Figure]) -> dict[str, dict[str, Any]]:
    """By method, and which LoRA the gap runs `to`; nothing without a base, or where no LoRA is better than it."""
    base = next((losses[method.name] for method in methods if method.role == "base"), None)
    trained = [method.name for method in methods if method.role == "trained"]
    if base is None or not trained:
        return {}
    best = min(trained, key=lambda name: losses[name].value)
    gap = base.minus(losses[best])
    if gap.value <= 0:
        return {}
    return {
        method.name: base.minus(losses[method.name]).over(gap).to_json() | {"to": best}
        for method in methods
        if method.role != "base" and method.name != best
    }
