"""eval.py: base, LoRAs, LoFA and variants on held-out prompts -> metrics.json, report.html, a table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc import locate as find_class
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from lofa.backbones import Backbone
from lofa.cli.command import Command
from lofa.cli.objects import open_backbone, pick_device, task_conditions
from lofa.cli.options import build, option, section, text
from lofa.cli.problems import explain
from lofa.cli.runs import find_run, find_set, new_run, read_run_config, start_run
from lofa.cli.schema import WayConfig
from lofa.errors import ConfigError, DataError
from lofa.evaluation import (
    Curves,
    Evaluation,
    Method,
    Predicted,
    Protocol,
    Recipe,
    closing_table,
    compare,
    maps_of_methods,
    read_curves,
    write_report,
)
from lofa.files import write_json
from lofa.predict import Predictor
from lofa.stores import Place
from lofa.tasks import Task

__all__ = ["COMMAND", "EvalConfig", "build_recipes", "compare_methods"]


@dataclass
class EvalConfig(WayConfig):
    """Keys of eval.py."""

    methods: list[str] = option(
        ["base", "lora", "lora_shared", "lofa", "lofa_shuffled", "lofa_sibling"],
        "names in `method` or `predictors`; with _shuffled behind: its adapters, mixed up",
    )
    predictor: str | None = text(
        None, "run of train.py stage=2; none: the newest finished one of this data, task and backbone"
    )
    predictors: dict[str, str] = text(
        {}, "further predictors: +predictors.<name>=<run>, as methods <name> and <name>_sibling"
    )


def evaluation(config: Any) -> Evaluation:
    """Compares the methods of the configuration in a run directory of its own."""
    backbone = open_backbone(config.backbone, pick_device(config.device))
    with new_run(config, "eval") as run:
        return compare_methods(config, backbone, run)


def compare_methods(config: Any, backbone: Backbone, run: Path) -> Evaluation:
    """Scores the methods and writes metrics.json and report.html into `run`.

    Raises:
        LofaError: an unknown method, no predictor, no held-out clips, or anything that does not belong together.
    """
    recipes = build_recipes(config)
    task = Task(config.task.name, tuple(task_conditions(config.task)), tuple(config.task.metrics), config.task.prompt)
    protocol: Protocol = build(Protocol, config.evaluation, seed=config.seed)
    set_dir = find_set(config)
    disable_progress_bar()  # of loading weights, a blink each

    @cache
    def load(chosen: str | None) -> Predictor:
        chosen = chosen or config.predictor or _newest_predictor(config, set_dir, backbone)
        return Predictor.load(chosen, str(backbone.device), backbone)

    result = compare(
        set_dir,
        backbone,
        task,
        list(config.methods),
        recipes,
        load=load,
        networks=instantiate(config.metrics, _convert_="all"),
        protocol=protocol,
    )
    start_run(run, config)
    write_json(run / "metrics.json", result.metrics)
    write_report(
        run / "report.html",
        result,
        maps=maps_of_methods(set_dir, result.methods, [scores.case for scores in result.prompts]),
        curves=_curves(result.methods),
        facts={"data": str(set_dir), "backbone": backbone.name, "seed": str(config.seed), "protocol": str(protocol)},
        fps=backbone.sampling.fps,
    )
    Console().print(closing_table(result))
    print(f"{run / 'metrics.json'}, {run / 'report.html'}")
    return result


def build_recipes(config: Any) -> dict[str, Recipe]:
    """What `method` and `predictors` describe, by name."""
    recipes = {str(name): _recipe(f"method.{name}", node, config.seed) for name, node in config.method.items()}
    for name, run in config.get("predictors", {}).items():
        recipes |= {name: Predicted(run), f"{name}_sibling": Predicted(run, "sibling")}
    return recipes


def _recipe(key: str, node: Any, seed: int) -> Recipe:
    """The recipe that a node of conf/method describes, its values checked against the types of its fields."""
    try:
        values: Any = OmegaConf.to_container(node, resolve=True)
        if "_target_" not in values:
            raise ConfigError("names no _target_: a recipe such as those of conf/method")
        target = values.pop("_target_")
        kind: Any = find_class(target)
        if kind is None:
            raise ConfigError(f"_target_={target}: no such class")
        typed = OmegaConf.merge(OmegaConf.structured(section(kind)), values)
        return build(kind, typed, **({"seed": seed} if "seed" in typed else {}))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {explain(error)}") from None
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {str(error).strip().splitlines()[0]}") from None


def _newest_predictor(config: Any, set_dir: Place, backbone: Backbone) -> str:
    wanted = {
        "stage": 2,
        "data": str(set_dir.resolve()),
        "task": config.task.name,
    }
    try:
        run = find_run(config.paths.runs, wanted, backbone)
    except DataError as error:
        raise DataError(
            f"method lofa needs a predictor: {error}. Run train.py stage=2, or give predictor=<run>"
        ) from None
    print(f"predictor: {run} (the newest finished one; choose another with predictor=<run>)")
    return str(run)


def _curves(methods: Sequence[Method]) -> list[Curves]:
    """Training curves of both stages of the first predictor, as far as they were logged."""
    predictor = next((method.predictor for method in methods if method.predictor is not None), None)
    if predictor is None:
        return []
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it logs every file that it opens
    run = predictor.description.folder.parent
    curves = []
    try:
        response = OmegaConf.select(read_run_config(run), "response")  # none: a demo's folder, with a copy alone
        stages = {"stage 1": Path(response), "stage 2": run} if isinstance(response, str) else {}
        for title, folder in stages.items():
            curves += read_curves(folder, title)
    except DataError:
        return curves  # a predictor without the run around it has no log
    return curves


COMMAND = Command(
    "eval",
    EvalConfig,
    evaluation,
    "compare base, LoRAs and LoFA on held-out prompts",
    (
        "python eval.py data=<set>",
        "python eval.py data=<set> predictor=<run> methods=[base,lora_shared,lofa,lofa_shuffled]",
        "python eval.py data=<set> methods=[base,lofa,single] +predictors.single=<run>",
        "python eval.py data=<set> method.lora.rank=8 task.metrics=[clip_t,denoising_loss]",
    ),
    sections=("evaluation", "method", "metrics", "task", "backbone", "paths"),
    program="eval.py",
)
