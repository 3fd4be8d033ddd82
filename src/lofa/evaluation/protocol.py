"""The comparison itself: methods, cases and judges in, the content of metrics.json and of the report out.

Denoising loss, CLIP-T: mean over prompts of the mean over a prompt's clips. FVD: all generated clips against the real
clips they stand for. Intervals: `lofa.evaluation.bootstrap`; of the seconds, low and high are the least and the most
measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lofa.backbones import Backbone
from lofa.errors import ConfigError
from lofa.evaluation.bootstrap import Interval, draw_units, fvd_draws, interval, mean_draws, mean_over_units
from lofa.evaluation.cases import Case, Protocol
from lofa.evaluation.methods import Method, Timing
from lofa.evaluation.scoring import Judges, MethodScores, RealClips, Scorer
from lofa.metrics import frechet_of_features
from lofa.stores import Location

__all__ = ["METRICS", "Evaluation", "PromptScores", "evaluate"]

METRICS = ("fvd", "clip_t", "denoising_loss", "seconds")
"""Keys of every method in metrics.json; only CLIP-T is better when higher."""


@dataclass(frozen=True)
class PromptScores:
    """Mean scores of one case, by method."""

    case: Case
    loss: Mapping[str, float]
    clip_t: Mapping[str, float]


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


def evaluate(
    set_dir: Location,
    backbone: Backbone,
    cases: Sequence[Case],
    methods: Sequence[Method],
    judges: Judges,
    protocol: Protocol,
    console: Console | None = None,
) -> Evaluation:
    """Scores all methods on all cases.

    Args:
        set_dir: the prepared set.
        backbone: the one it was prepared for.
        cases: from `plan_cases`, at least two.
        methods: of different names; differences are taken of each later one to each earlier one, base and lora first.
        judges: networks of FVD and CLIP-T.
        protocol: how.
        console: where the progress bar goes; None prints to the terminal.

    Raises:
        ConfigError: two methods of one name, or none.
    """
    ordered = sorted(methods, key=lambda method: {"base": 0, "lora": 1}.get(method.name, 2))
    names = [method.name for method in ordered]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"methods={','.join(names)}: give at least one, each once")
    scores: dict[str, MethodScores] = {}
    with _progress(console) as progress:
        task = progress.add_task("evaluate", total=None)
        scorer = Scorer(set_dir, backbone, cases, judges, protocol, lambda clips: progress.advance(task, clips))
        total = len(scorer.generated) * (len(ordered) + 1) + len(scorer.scored) * len(ordered)
        progress.update(task, total=total)
        real = scorer.real()
        for method in ordered:
            progress.update(task, description=f"evaluate {method.name}")
            scores[method.name] = scorer.method(method, real)
    return Evaluation(
        _metrics(scorer, ordered, scores, real),
        _prompts(scorer, scores),
        _clips(scorer, scores, real),
        ordered,
    )


def _progress(console: Console | None) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


def _units(rows: Sequence[tuple[int, object]]) -> Tensor:
    return torch.tensor([place for place, _ in rows])


def _metrics(
    scorer: Scorer, methods: Sequence[Method], scores: Mapping[str, MethodScores], real: RealClips
) -> dict[str, Any]:
    units, protocol = len(scorer.cases), scorer.protocol
    indices = draw_units(units, protocol.draws, protocol.seed)
    scored, generated = _units(scorer.scored), _units(scorer.generated)
    fvd = fvd_draws([scores[method.name].features for method in methods], real.features, generated, indices)
    values: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, Tensor]] = {}
    for place, method in enumerate(methods):
        own = scores[method.name]
        clip_t = mean_over_units(own.clip_t, generated, units)
        loss = mean_over_units(own.loss, scored, units)
        values[method.name] = {
            "fvd": float(frechet_of_features(own.features, real.features)),
            "clip_t": float(clip_t.mean()),
            "denoising_loss": float(loss.mean()),
        }
        draws[method.name] = {
            "fvd": fvd[:, place],
            "clip_t": mean_draws(clip_t, indices),
            "denoising_loss": mean_draws(loss, indices),
        }
    real_clip_t = mean_over_units(real.clip_t, generated, units)
    timings = {method.name: method.timing for method in methods}
    return {
        "methods": {
            name: {key: interval(values[name][key], draws[name][key]).to_json() for key in METRICS[:3]}
            | {"seconds": _seconds(timings[name])}
            for name in values
        },
        "differences": {
            f"{later}-{earlier}": {
                key: interval(
                    values[later][key] - values[earlier][key], draws[later][key] - draws[earlier][key]
                ).to_json()
                for key in METRICS[:3]
            }
            | {"seconds": _seconds_between(timings[later], timings[earlier])}
            for place, later in enumerate(values)
            for earlier in list(values)[:place]
        },
        "gap_closed": _gap_closed(values, draws),
        "real": {"clip_t": interval(float(real_clip_t.mean()), mean_draws(real_clip_t, indices)).to_json()},
        "held_out": {
            "classes": len({case.group for case in scorer.cases}),
            "prompts": units,
            "clips": len(scorer.scored),
            "generated": len(scorer.generated),
            "feature_size": real.features.shape[1],
        },
    }


def _seconds(timing: Timing) -> dict[str, Any]:
    extra = {} if timing.in_batch is None else {"in_batch": timing.in_batch}
    return Interval(timing.median, min(timing.seconds), max(timing.seconds)).to_json() | extra | {"how": timing.how}


def _seconds_between(later: Timing, earlier: Timing) -> dict[str, float]:
    low, high = min(later.seconds) - max(earlier.seconds), max(later.seconds) - min(earlier.seconds)
    return Interval(later.median - earlier.median, low, high).to_json()


def _gap_closed(
    values: dict[str, dict[str, float]], draws: dict[str, dict[str, Tensor]]
) -> dict[str, dict[str, float]]:
    """Share of the way from base to lora, in denoising loss, that others go; nothing where lora is not the better."""
    key = "denoising_loss"
    if not {"base", "lora"} <= set(values) or values["base"][key] <= values["lora"][key]:
        return {}
    gap, gaps = values["base"][key] - values["lora"][key], draws["base"][key] - draws["lora"][key]
    return {
        name: interval(
            (values["base"][key] - values[name][key]) / gap, (draws["base"][key] - draws[name][key]) / gaps
        ).to_json()
        for name in values
        if name not in ("base", "lora")
    }


def _prompts(scorer: Scorer, scores: Mapping[str, MethodScores]) -> list[PromptScores]:
    units = len(scorer.cases)
    loss = {name: mean_over_units(own.loss, _units(scorer.scored), units) for name, own in scores.items()}
    clip_t = {name: mean_over_units(own.clip_t, _units(scorer.generated), units) for name, own in scores.items()}
    return [
        PromptScores(
            case,
            {name: float(values[place]) for name, values in loss.items()},
            {name: float(values[place]) for name, values in clip_t.items()},
        )
        for place, case in enumerate(scorer.cases)
    ]


def _clips(scorer: Scorer, scores: Mapping[str, MethodScores], real: RealClips) -> list[tuple[str, dict[str, Tensor]]]:
    shown = [sample for _, sample in scorer.generated if sample.id in scorer.shown]
    return [
        (sample.caption, {"real": real.shown[sample.id]} | {name: own.shown[sample.id] for name, own in scores.items()})
        for sample in shown
    ]
