"""What the files of a run may run. A configuration that was read from a run is data: the classes it names are data too.

A run is passed on like any other folder, and Hydra calls whatever `_target_` names. So of a run's configuration only
these are built: LoFA's own modules, callbacks, loggers and schedules, torch.optim's optimizers and schedules, and
Lightning's trainer, strategies, plugins, callbacks, loggers and profilers. The command line may name any class.
"""

from collections.abc import Collection, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins import Precision as FabricPrecision
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

import lofa.evaluation
import lofa.training
from lofa.errors import ConfigError, DataError
from lofa.files import read_torch
from lofa.training import LAST, PredictorModule
from lofa.workflows.runs import CHECKPOINTS

__all__ = ["check_checkpoints", "check_targets", "targets"]

_TARGET = "_target_"
_OWN = (None, "lofa.training.warmup_schedule")
"""What is named beside classes: no logger, and a function."""

_ALLOWED: dict[str, tuple[Any, tuple[type, ...]]] = {
    "lofa.training": (lofa.training, (PredictorModule, lightning.Callback, Logger)),
    "lofa.evaluation": (
        lofa.evaluation,
        (lofa.evaluation.Base, lofa.evaluation.ClassLora, lofa.evaluation.SharedLora, lofa.evaluation.Predicted),
    ),
    "torch.optim": (torch.optim, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)),
    "lightning": (
        lightning,
        (
            lightning.Trainer,
            lightning.Callback,
            Accelerator,
            CheckpointIO,
            ClusterEnvironment,
            FabricPrecision,
            LayerSync,
            Logger,
            Profiler,
            Strategy,
        ),
    ),
}
"""Package -> the package, and the classes of whose kind a class of it has to be."""

_STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops")
"""What the newest checkpoint must hold for a training to go on."""


def targets(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of every `_target_` in nested mappings and lists."""
    if isinstance(value, dict):
        for name, entry in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if inner.rpartition(".")[2] == _TARGET:  # the command line writes whole keys
                yield inner, entry
            else:
                yield from targets(entry, inner)
    elif isinstance(value, list | tuple):
        for place, entry in enumerate(value):
            yield from targets(entry, f"{key}[{place}]")


def check_targets(found: Collection[tuple[str, object]], file: Path) -> None:
    """Refuses what a run's file may not name.

    Args:
        found: (key, value) of every `_target_` that comes from the file.
        file: the configuration of the run.

    Raises:
        ConfigError: naming key, value and the way out. Nothing is imported to find out.
    """
    for key, name in found:
        if name not in _OWN and not _harmless(name):
            raise ConfigError(
                f"{file}: {key}={name}: not a class that a run's file may name (LoFA's own; optimizers and schedules "
                "of torch.optim; Lightning's trainer, strategies, plugins, callbacks, loggers and profilers). "
                "trust_run=true takes it, and runs the code that it names"
            )


def _harmless(name: object) -> bool:
    """Whether a name leads to a class of an allowed package and kind, by attributes of what is imported already."""
    package = next((one for one in _ALLOWED if isinstance(name, str) and name.startswith(f"{one}.")), None)
    if package is None:
        return False
    root, kinds = _ALLOWED[package]
    try:
        made = attrgetter(str(name).removeprefix(f"{package}."))(root)
    except AttributeError:
        return False
    return isinstance(made, type) and issubclass(made, kinds) and made.__module__.startswith(f"{package}.")


def check_checkpoints(run: Path, trusted: bool) -> None:
    """Opens the checkpoints of a run as data alone, so that a hostile or damaged one stops here and runs nothing.

    A checkpoint in several files (`strategy.plugin.save_distributed_checkpoint=true`) can't be: PyTorch unpickles its
    metadata and its byte entries. It is taken only where the user trusts the run.

    Raises:
        ConfigError: a folder, and the run is not trusted.
        DataError: a file that is damaged, holds more than tensors and plain containers, or is no training's state.
    """
    for path in sorted((run / CHECKPOINTS).glob("*.ckpt")):
        if path.is_dir():
            if not trusted:
                raise ConfigError(
                    f"{path}: a checkpoint in several files, which PyTorch reads by running what is pickled in it. If "
                    "you know where the run comes from: trust_run=true. New runs write one file with "
                    "strategy.plugin.save_distributed_checkpoint=false"
                )
            continue
        state = read_torch(path, mmap=True)
        lacking = [name for name in _STATE if not isinstance(state, dict) or name not in state]
        if lacking and path.name == LAST:
            raise DataError(f"{path}: not the checkpoint of a training: it has no {', '.join(lacking)}")
