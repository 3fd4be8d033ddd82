"""A whole comparison: from a prepared set, recipes of methods and metrics to an `Evaluation`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from lofa.backbones import Backbone
from lofa.data import read_samples
from lofa.evaluation.cases import Protocol, plan_cases
from lofa.evaluation.methods import Comparison, Recipe, make_methods
from lofa.evaluation.protocol import Evaluation, evaluate
from lofa.evaluation.scoring import check_needs
from lofa.metrics import build_metrics
from lofa.paths import Location
from lofa.predict import Predictor
from lofa.tasks import Task

__all__ = ["compare"]


def compare(
    set_dir: Location,
    backbone: Backbone,
    task: Task,
    names: Sequence[str],
    recipes: Mapping[str, Recipe],
    *,
    load: Callable[[str | None], Predictor],
    networks: Mapping[str, Any] | None = None,
    protocol: Protocol | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Makes the methods and scores them on the task's metrics.

    Args:
        set_dir: the prepared set.
        backbone: the one it was prepared for.
        task: whose metrics are reported.
        names: of the methods: recipes, and each with `_shuffled` behind.
        recipes: what there is, by name.
        load: the predictor of a run; None stands for the one to take where a recipe names none.
        networks: as in `lofa.metrics.build_metrics`; what is not given is what ships.
        protocol: how.
        console: where progress goes; None prints to the terminal.

    Raises:
        LofaError: an unknown method or metric, one without what it needs, no held-out clips, or anything that does not
            belong together.
    """
    protocol = protocol or Protocol()
    samples = read_samples(set_dir)
    cases = plan_cases(samples, protocol)
    check_needs(task.metrics, cases)
    metrics = build_metrics(task.metrics, networks or {}, str(backbone.device))
    comparison = Comparison(set_dir, backbone, task, samples, cases, load)
    with (console or Console()).status("adapters") as status:
        methods = make_methods(names, recipes, comparison, lambda name: status.update(f"adapters of {name}"))
    return evaluate(set_dir, backbone, cases, methods, metrics, protocol, console)
