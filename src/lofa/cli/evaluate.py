"""eval.py: base, LoRAs, LoFA and variants on held-out prompts -> metrics.json, report.html, a table."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from lofa import workflows
from lofa.backbones import Backbone
from lofa.cli.commands import EvalConfig
from lofa.cli.objects import open_backbone, plain_conditions
from lofa.cli.options import schema
from lofa.cli.problems import explain, first_line
from lofa.cli.runs import find_set, new_run
from lofa.errors import ConfigError, DataError
from lofa.evaluation import Evaluation, Predicted, Recipe, closing_table
from lofa.predict import Predictor
from lofa.stores import Place, address
from lofa.tasks import Task

__all__ = ["build_recipes", "compare_methods", "evaluation"]


def evaluation(config: EvalConfig) -> Evaluation:
    """Compares the methods of the configuration in a run directory of its own."""
    backbone = open_backbone(config.backbone, workflows.pick_device(config.device))
    with new_run(config, "eval") as run:
        return compare_methods(config, backbone, run)


def compare_methods(config: EvalConfig, backbone: Backbone, run: Path) -> Evaluation:
    """Scores the methods and writes metrics.json and report.html into `run` (errors as `workflows.evaluate`)."""
    recipes = build_recipes(config)
    set_dir = find_set(config)

    @cache
    def load(chosen: str | None) -> Predictor:
        chosen = chosen or config.predictor or _newest_predictor(config, set_dir, backbone)
        return Predictor.load(chosen, str(backbone.device), backbone)

    result = workflows.evaluate(
        set_dir,
        backbone,
        Task(config.task.name, tuple(plain_conditions(config.task)), config.task.metrics, config.task.prompt),
        config.methods,
        recipes,
        load=load,
        networks=instantiate(asdict(config.metrics), _convert_="all"),
        protocol=config.evaluation,
    )
    workflows.start_run(run, asdict(config))
    workflows.write_evaluation(run, result, set_dir, backbone, config.evaluation)
    Console().print(closing_table(result))
    print(f"{run / 'metrics.json'}, {run / 'report.html'}")
    return result


def build_recipes(config: EvalConfig) -> dict[str, Recipe]:
    """What `method` and `predictors` describe, by name."""
    recipes = {str(name): _recipe(f"method.{name}", node, config.seed) for name, node in config.method.items()}
    for name, run in config.predictors.items():
        recipes |= {name: Predicted(run), f"{name}_sibling": Predicted(run, "sibling")}
    return recipes


def _recipe(key: str, node: Any, seed: int) -> Recipe:
    """The recipe that a node of conf/method describes, its values checked against the types of its fields."""
    values = dict(node) if isinstance(node, dict) else {}
    target = values.pop("_target_", None)
    if target is None:
        raise ConfigError(f"{key}: names no _target_: a recipe such as those of conf/method")
    try:
        typed = schema(get_object(target))
    except Exception as error:  # whatever a module raises when it is imported, and what is no class of options
        raise ConfigError(f"{key}: _target_={target}: {first_line(error)}") from None
    try:
        return OmegaConf.to_object(OmegaConf.merge(typed, {"seed": seed} if "seed" in typed else {}, values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {explain(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _newest_predictor(config: EvalConfig, set_dir: Place, backbone: Backbone) -> str:
    wanted = {"stage": 2, "data": address(set_dir), "task": config.task.name}
    try:
        run = workflows.find_run(config.paths.runs, wanted, backbone)
    except DataError as error:
        raise DataError(
            f"method lofa needs a predictor: {error}. Run train.py stage=2, or give predictor=<run>"
        ) from None
    print(f"predictor: {run} (the newest finished one; choose another with predictor=<run>)")
    return str(run)
