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
from lofa.cli.objects import find_set, new_run, newest_run, open_backbone, read_conditions
from lofa.cli.options import schema
from lofa.cli.problems import explain, first_line
from lofa.errors import ConfigError
from lofa.evaluation import Evaluation, Predicted, Recipe, closing_table
from lofa.predict import Predictor

__all__ = ["build_recipes", "compare_methods", "evaluation"]


def evaluation(config: EvalConfig) -> Evaluation:
    """Compares the methods of the configuration in a run directory of its own."""
    backbone = open_backbone(config)
    with new_run(config, "eval") as run:
        return compare_methods(config, backbone, run)


def compare_methods(config: EvalConfig, backbone: Backbone, run: Path) -> Evaluation:
    """Scores the methods and writes metrics.json and report.html into `run` (errors as `workflows.evaluate`)."""
    recipes, set_dir = build_recipes(config), find_set(config)
    read_conditions(config.task)

    @cache
    def load(chosen: str | None) -> Predictor:
        chosen = chosen or config.predictor or str(newest_run(config, 2, backbone, "predictor"))
        return Predictor.load(chosen, str(backbone.device), backbone)

    result = workflows.evaluate(
        set_dir,
        backbone,
        config.task,
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
