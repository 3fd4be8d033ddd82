"""What the configuration means: backbone, predictor, conditions, data set, run directory."""

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from lofa.backbones import Backbone, known_backbones, load_backbone, read_config
from lofa.cli.pipeline import PipelineConfig
from lofa.cli.problems import first_line
from lofa.cli.text import literal
from lofa.conditions import ConditionEncoder
from lofa.errors import ConfigError, DataError
from lofa.paths import Place, address, locate
from lofa.predict import Predictor
from lofa.processes import is_first_process
from lofa.tasks import Task
from lofa.workflows import check_kinds, find_run, pick_device
from lofa.workflows.runs import CONFIG, SHARED_RUN, read_settings, reserve_run

__all__ = [
    "find_set",
    "load_predictor",
    "new_run",
    "newest_run",
    "open_backbone",
    "read_conditions",
    "read_run_config",
]


def open_backbone(config: PipelineConfig, device: str | None = None) -> Backbone:
    """The backbone of the group `backbone`, on `device`; None: that of the configuration.

    With a path of one's own it goes by that path, under which `load_backbone` finds it again later.
    """
    chosen = config.backbone
    if chosen.name not in known_backbones() or read_config(chosen.name).path != chosen.path:
        folder = Path(chosen.path)
        chosen = replace(chosen, name=str(folder.resolve()) if folder.is_dir() else chosen.path)
    return load_backbone(chosen, pick_device(device or config.device))


def load_predictor(config: Any) -> Predictor:
    """The predictor of the keys `predictor` (none: the one finished last in `runs`), `model` and `device`."""
    device = pick_device(config.device)
    run = config.predictor
    if run is None:
        run = find_run(config.runs, {"stage": 2})
        print(f"predictor: {run} (the one finished last; choose another with predictor=<run>)")
    backbone = None if config.model is None else load_backbone(config.model, device)
    return Predictor.load(run, device, backbone)


def read_conditions(task: Task) -> tuple[dict[str, dict[str, Any]], dict[str, type[ConditionEncoder]]]:
    """What a task says of its conditions.

    Returns:
        kind -> constructor values of its encoder; kind -> the encoder, where the task names one of its own

    Raises:
        ConfigError: no kind, an unknown one, or no such class.
    """
    check_kinds(task.name, list(task.conditions))
    constructed = {name: dict(given or {}) for name, given in task.conditions.items()}
    classes = {}
    for name, values in constructed.items():
        target = values.pop("_target_", None)
        if target is not None:
            key = f"task.conditions.{name}._target_={target}"
            try:
                classes[name] = get_class(target)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"{key}: {first_line(error)}") from None
            if not issubclass(classes[name], ConditionEncoder):
                raise ConfigError(f"{key}: no subclass of lofa.conditions.ConditionEncoder")
    return constructed, classes


def find_set(config: PipelineConfig) -> Place:
    """Where the data set lies that `data` names: a folder or URL as it stands, or a name in `paths.data`."""
    place = locate(config.data)
    if not isinstance(place, Path) or place.is_absolute() or len(place.parts) > 1:
        return place
    return locate(config.paths.data) / config.data


def newest_run(config: PipelineConfig, stage: int, backbone: Backbone, key: str) -> Path:
    """The run of a stage that was finished last of this data, task and backbone; `key` chooses another.

    Raises:
        DataError: there is none.
    """
    wanted = {"stage": stage, "data": address(find_set(config)), "task": config.task.name}
    try:
        run = find_run(config.paths.runs, wanted, backbone)
    except DataError as error:
        raise DataError(f"{error}. Run train.py stage={stage} first, or give {key}=<run>") from None
    if is_first_process():
        print(f"{key}: {run} (the newest finished one; choose another with {key}=<run>)")
    return run


def new_run(config: PipelineConfig, kind: str) -> AbstractContextManager[Path]:
    """The directory of a new run, as `reserve_run` gives it.

    `paths.runs`/`name` where a name is given, otherwise `paths.runs`/<task>/<kind>-<time>; a job of a sweep gets the
    folder that Hydra gives it.

    Raises:
        ConfigError: there is a run already, or processes started from outside could not agree on a name.
    """
    return reserve_run(_choose_run(config, kind))


def _choose_run(config: PipelineConfig, kind: str) -> Path:
    if not is_first_process() and SHARED_RUN in os.environ:
        return Path(os.environ[SHARED_RUN])
    runs = Path(config.paths.runs)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().runtime.output_dir)
    if config.name is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes were started from outside: give name=... so that they share one run")
        return runs / config.task.name / f"{kind}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    run = runs / config.name
    if (run / CONFIG).exists() and is_first_process():
        raise ConfigError(
            f"name={config.name}: there is a run in {run}; go on with it by resume={run}, or choose another name"
        )
    return run


def read_run_config(run: str | Path) -> DictConfig:
    """The configuration of a run; its strings are taken as they stand (DataError: no run there)."""
    config = OmegaConf.create(_literals(read_settings(run)))
    assert isinstance(config, DictConfig)
    return config


def _literals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literals(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_literals(entry) for entry in value]
    return literal(value) if isinstance(value, str) else value
