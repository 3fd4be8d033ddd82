"""Methods compared on held-out prompts, into a directory: metrics.json and report.html."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from lofa.backbones import Backbone
from lofa.errors import DataError
from lofa.evaluation import (
    Curves,
    Evaluation,
    Method,
    Protocol,
    Recipe,
    compare,
    maps_of_methods,
    read_curves,
    write_report,
)
from lofa.files import write_json
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
    """Scores the methods; the arguments are those of `lofa.evaluation.compare`.

    Raises:
        LofaError: an unknown method, no predictor, no held-out clips, or anything that does not belong together.
    """
    disable_progress_bar()  # of loading weights, a blink each
    return compare(set_dir, backbone, task, list(methods), recipes, load=load, networks=networks, protocol=protocol)


def write_evaluation(run: Path, result: Evaluation, set_dir: Location, backbone: Backbone, protocol: Protocol) -> None:
    """Writes metrics.json and report.html into `run`."""
    write_json(run / "metrics.json", result.metrics)
    facts = {"data": str(set_dir), "backbone": backbone.name, "seed": str(protocol.seed), "protocol": str(protocol)}
    write_report(
        run / "report.html",
        result,
        maps=maps_of_methods(set_dir, result.methods, [scores.case for scores in result.prompts]),
        curves=_curves(result.methods),
        facts=facts,
        fps=backbone.sampling.fps,
    )


def _curves(methods: Sequence[Method]) -> list[Curves]:
    """Training curves of both stages of the first predictor, as far as they were logged."""
    predictor = next((method.predictor for method in methods if method.predictor is not None), None)
    if predictor is None:
        return []
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it logs every file that it opens
    run = predictor.description.folder.parent
    curves = []
    try:
        response = read_settings(run).get("response")  # none: a demo's folder, with a copy alone
        stages = {"stage 1": Path(response), "stage 2": run} if isinstance(response, str) else {}
        for title, folder in stages.items():
            curves += read_curves(folder, title)
    except DataError:
        return curves  # a predictor without the run around it has no log
    return curves
