"""Run directories: one that explains itself, and finding the one that is meant.

runs/<name>/config.yaml        resolved configuration
            environment.json   code revision, versions, machine, command line
            tensorboard/  checkpoints/
            predictor/         weights and description
            run.json           what was trained and how it ended; written last, so its presence means "finished"
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lofa.backbones import Fingerprinted
from lofa.cli.old_keys import renew
from lofa.cli.text import literal
from lofa.errors import ConfigError, DataError
from lofa.files import atomic_write, read_json, remove_temporaries, write_json
from lofa.stores import Place, StorePath, locate

__all__ = ["find_run", "find_set", "finish_run", "is_first_process", "new_run", "read_run_config", "start_run"]

CONFIG, ENVIRONMENT, SUMMARY = "config.yaml", "environment.json", "run.json"
CHECKPOINTS = "checkpoints"
_RESULTS = (SUMMARY, "metrics.json", f"{CHECKPOINTS}/*")  # a run that has one of these is never touched
_SHARED_RUN = "LOFA_RUN_DIR"  # the first process tells those it starts
_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "hydra-core", "safetensors", "lofa")


def find_set(config: Any) -> Place:
    """Where the data set lies that `data` names: a folder or URL as it stands, or a name in `paths.data`."""
    place = locate(config.data)
    if isinstance(place, StorePath) or place.is_absolute() or len(place.parts) > 1:
        return place
    return locate(config.paths.data) / config.data


def is_first_process() -> bool:
    """Whether this process writes the run's files (Lightning and torchrun number the processes in the environment)."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK"))


@contextmanager
def new_run(config: Any, kind: str) -> Iterator[Path]:
    """The directory of a new run, for the length of the block; nothing is written yet.

    `paths.runs`/`name` where a name is given, otherwise `paths.runs`/<task>/<kind>-<time>; a job of a sweep gets the
    folder that Hydra gives it. Where the block raises (Ctrl-C too) before there is a checkpoint or a result, the name
    is free again: what `start_run` wrote is taken back, logs stay.

    Raises:
        ConfigError: there is a run already, or processes started from outside could not agree on a name.
    """
    run = _choose_run(config, kind)
    try:
        yield run
    except BaseException:
        if is_first_process() and not any(next(run.glob(result), None) for result in _RESULTS):
            for file in (CONFIG, ENVIRONMENT):
                (run / file).unlink(missing_ok=True)
            for folder in (run / CHECKPOINTS, run):
                with suppress(OSError):  # not there, or not empty
                    folder.rmdir()
        raise


def _choose_run(config: Any, kind: str) -> Path:
    if not is_first_process() and _SHARED_RUN in os.environ:
        return Path(os.environ[_SHARED_RUN])
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


def start_run(run: Path, config: DictConfig) -> None:
    """Writes what the run is; processes that this one starts will find it."""
    os.environ[_SHARED_RUN] = str(run)
    if not is_first_process():
        return
    if run.is_dir():
        remove_temporaries(run, lambda: True)
    with atomic_write(run / CONFIG) as temporary:
        temporary.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    packages = {name: _version(name) for name in _PACKAGES}
    write_json(
        run / ENVIRONMENT,
        {
            "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "command": sys.argv,
            "git_revision": _revision(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "packages": packages,
        },
    )


def finish_run(run: Path, summary: Mapping[str, object]) -> None:
    """Marks a run as finished, with what later commands look for."""
    if is_first_process():
        write_json(run / SUMMARY, {"finished": f"{datetime.now():%Y-%m-%d %H:%M:%S}", **summary})


def find_run(runs: str | Path, wanted: Mapping[str, object], backbone: Fingerprinted | None = None) -> Path:
    """The finished run of `runs` (searched through) that was finished last among those whose summary holds `wanted`,
    and of those for `backbone`.

    Raises:
        DataError: there is none.
    """
    found = []
    for file in Path(runs).rglob(SUMMARY):
        summary = read_json(file)
        fits = all(summary.get(key) == value for key, value in wanted.items())
        if fits and (backbone is None or backbone.accepts(summary.get("backbone_fingerprint"))):
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        stamp = {} if backbone is None else {"backbone_fingerprint": backbone.fingerprint}
        described = ", ".join(f"{key}={value}" for key, value in {**wanted, **stamp}.items())
        raise DataError(f"no finished run in {runs} with {described}")
    return max(found)[1]


def read_run_config(run: str | Path) -> DictConfig:
    """The resolved configuration of a run; its strings are taken as they stand.

    Raises:
        DataError: no run there; the message lists the runs beside it.
    """
    run = Path(run)
    if not (run / CONFIG).is_file():
        beside = sorted(str(file.parent) for file in run.parent.glob(f"*/{CONFIG}")) if run.parent.is_dir() else []
        raise DataError(f"no run in {run}: {CONFIG} is missing. Runs beside it: {', '.join(beside) or 'none'}")
    loaded = OmegaConf.to_container(OmegaConf.load(run / CONFIG), resolve=False)
    config = OmegaConf.create(_literals(loaded))
    assert isinstance(config, DictConfig)
    return renew(config)


def _literals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literals(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_literals(entry) for entry in value]
    return literal(value) if isinstance(value, str) else value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Commit of the code, with "+" after it where files differ from it; None outside a git checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
