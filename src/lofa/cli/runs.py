"""Which data set and which run directory a configuration means."""

import os
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lofa.cli.text import literal
from lofa.errors import ConfigError
from lofa.processes import is_first_process
from lofa.stores import Place, locate
from lofa.workflows.runs import CONFIG, SHARED_RUN, read_settings, reserve_run

__all__ = ["find_set", "new_run", "read_run_config"]


def find_set(config: Any) -> Place:
    """Where the data set lies that `data` names: a folder or URL as it stands, or a name in `paths.data`."""
    place = locate(config.data)
    if not isinstance(place, Path) or place.is_absolute() or len(place.parts) > 1:
        return place
    return locate(config.paths.data) / config.data


def new_run(config: Any, kind: str) -> AbstractContextManager[Path]:
    """The directory of a new run, as `reserve_run` gives it.

    `paths.runs`/`name` where a name is given, otherwise `paths.runs`/<task>/<kind>-<time>; a job of a sweep gets the
    folder that Hydra gives it.

    Raises:
        ConfigError: there is a run already, or processes started from outside could not agree on a name.
    """
    return reserve_run(_choose_run(config, kind))


def _choose_run(config: Any, kind: str) -> Path:
    if not is_first_process() and SHARED_RUN in os.environ:
        return Path(os.environ[SHARED_RUN])
    runs = Path(config.paths.runs)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().runtime.output_dir)
    if config.name is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "several processes were started from outside: give name=... so that they share one run directory"
            )
        return runs / config.task.name / f"{kind}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    run = runs / config.name
    if (run / CONFIG).exists() and is_first_process():
        raise ConfigError(
            f"name={config.name}: there is a run in {run}; go on with it by resume={run}, or choose another name"
        )
    return run


def read_run_config(run: str | Path) -> DictConfig:
    """The configuration of a run; its strings are taken as they stand.

    Raises:
        DataError: no run there; the message lists the runs beside it.
    """
    config = OmegaConf.create(_literals(read_settings(run)))
    assert isinstance(config, DictConfig)
    return config


def _literals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literals(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_literals(entry) for entry in value]
    return literal(value) if isinstance(value, str) else value
