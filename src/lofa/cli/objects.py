"""From the configuration to objects that several commands need: backbone, predictor, encoders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class

from lofa.adapters.formats import check_adapter_target
from lofa.backbones import Backbone, BackboneConfig, known_backbones, load_backbone, read_config
from lofa.cli.pipeline import TaskConfig
from lofa.cli.problems import first_line
from lofa.conditions import ConditionEncoder
from lofa.errors import ConfigError
from lofa.predict import Predictor
from lofa.workflows import check_kinds, find_run, pick_device, pick_dtype

__all__ = ["check_conditions", "check_export", "encoder_classes", "load_predictor", "open_backbone", "plain_conditions"]


def open_backbone(config: BackboneConfig, device: torch.device | str) -> Backbone:
    """The backbone of the group `backbone`.

    With a path of one's own it goes by that path, under which `load_backbone` finds it again later.
    """
    if config.name not in known_backbones() or read_config(config.name).path != config.path:
        folder = Path(config.path)
        config = replace(config, name=str(folder.resolve()) if folder.is_dir() else config.path)
    return load_backbone(config, device=device)


def load_predictor(config: Any) -> Predictor:
    """The predictor of the keys `predictor` (none: the one finished last in `runs`), `model` and `device`."""
    device = pick_device(config.device)
    run = config.predictor
    if run is None:
        run = find_run(config.runs, {"stage": 2})
        print(f"predictor: {run} (the one finished last; choose another with predictor=<run>)")
    backbone = None if config.model is None else load_backbone(config.model, device)
    return Predictor.load(run, device, backbone)


def check_export(config: Any) -> torch.dtype | None:
    """Refuses a wrong `dtype`, `rank` or `format` and an `out` that is not to be replaced; gives the precision.

    Raises:
        ConfigError, AdapterFormatError, TargetError: what is wrong.
    """
    dtype = pick_dtype(config.dtype)
    check_adapter_target(config.out, config.format, config.overwrite)
    return dtype


def plain_conditions(task: TaskConfig) -> dict[str, dict[str, Any]]:
    """Kind of condition -> constructor values of its encoder (ConfigError: no kind, or an unknown one)."""
    check_kinds(task.name, list(task.conditions))
    return {
        name: {key: value for key, value in (values or {}).items() if key != "_target_"}
        for name, values in task.conditions.items()
    }


def encoder_classes(task: TaskConfig) -> dict[str, type[ConditionEncoder]]:
    """Kind of condition -> its encoder, where the task names one of its own (ConfigError: no such class)."""
    classes = {}
    for name, values in task.conditions.items():
        if "_target_" in (values or {}):
            key = f"task.conditions.{name}._target_={values['_target_']}"
            try:
                found = get_class(values["_target_"])
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{key}: {first_line(error)}") from None
            if not (isinstance(found, type) and issubclass(found, ConditionEncoder)):
                raise ConfigError(f"{key}: no subclass of lofa.conditions.ConditionEncoder")
            classes[name] = found
    return classes


def check_conditions(given: str, conditions: Sequence[str], task: TaskConfig) -> None:
    """Refuses a predictor or stage, `given` as key=value, of other conditions than the task's (ConfigError)."""
    if set(conditions) != set(task.conditions):
        found, wanted = (", ".join(one) for one in (conditions, task.conditions))
        raise ConfigError(f"{given}: takes {found}, but task={task.name} gives {wanted}")
