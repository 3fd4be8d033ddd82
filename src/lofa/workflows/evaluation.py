"""Methods compared on held-out prompts, into a directory: metrics.json and report.html."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from lofa import evaluation
from lofa.backbones import Backbone
from lofa.data import read_samples
from lofa.errors import DataError
from lofa.evaluation import Comparison, Evaluation, Method, Protocol, Recipe, Series
from lofa.files import write_json
from lofa.metrics import build_metrics
from lofa.paths import Location
from lofa.predict import Predictor
from lofa.tasks import Task
from lofa.workflows.runs import read_settings

__all__ = ["evaluate", "write_evaluation"]


def evaluate(
    set_dir: Location,
    backbone: Backbone,
    task: Task,
    methods: Sequence[str],
    recipes: Mapping[str, Recipe],
    *,
    load: Callable[[str | None], Predictor],
    networks: Mapping[str, Any],
    protocol: Protocol,
) -> Evaluation:
    """Makes the methods and scores them on the task's metrics.

    Args:
        set_dir: the prepared set.
        backbone: the one it was prepared for.
        task: whose metrics are reported.
        methods: names of recipes, and each with `_shuffled` behind.
        recipes: what there is, by name.
        load: the predictor of a run; None stands for the one to take where a recipe names none.
        networks: as in `lofa.metrics.build_metrics`.
        protocol: how.

    Raises:
        LofaError: an unknown method or metric, one without what it needs, no held-out clips, or anything that does not
            belong together.
    """
    disable_progress_bar()  # of loading weights, a blink each
    samples = read_samples(set_dir)
    cases = evaluation.plan_cases(samples, protocol)
    evaluation.check_needs(task.metrics, cases)
    metrics = build_metrics(task.metrics, networks, str(backbone.device))
    comparison = Comparison(set_dir, backbone, task, samples, cases, load)
    with Console().status("adapters") as status:
        made = evaluation.make_methods(methods, recipes, comparison, lambda one: status.update(f"adapters of {one}"))
    return evaluation.evaluate(comparison, made, metrics, protocol)


def write_evaluation(run: Path, result: Evaluation, set_dir: Location, backbone: Backbone, protocol: Protocol) -> None:
    """Writes metrics.json and report.html into `run`."""
    write_json(run / "metrics.json", result.metrics)
    facts = {"data": str(set_dir), "backbone": backbone.name, "seed": str(protocol.seed), "protocol": str(protocol)}
    evaluation.write_report(
        run / "report.html",
        result,
        maps=evaluation.maps_of_methods(set_dir, result.methods, [scores.case for scores in result.prompts]),
        curves=_curves(result.methods),
        facts=facts,
        fps=backbone.sampling.fps,
    )


def _curves(methods: Sequence[Method]) -> dict[str, Series]:
    """Training curves of both stages of the first predictor, as far as they were logged."""
    predictor = next((method.predictor for method in methods if method.predictor is not None), None)
    if predictor is None:
        return {}
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it logs every file that it opens
    run = predictor.description.folder.parent
    try:
        response = read_settings(run).get("response")  # none: a demo's folder, with a copy alone
    except DataError:
        return {}  # a predictor without the run around it has no log
    stages = {"stage 1": Path(response), "stage 2": run} if isinstance(response, str) else {}
    return {
        f"{stage} {name}": series
        for stage, folder in stages.items()
        for name, series in evaluation.read_curves(folder).items()
    }
