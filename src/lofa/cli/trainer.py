"""What the configuration of a training names by class: optimizer, schedule, module, trainer, logger, callbacks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from lofa.cli.blueprints import Blueprint
from lofa.cli.commands import TrainConfig
from lofa.cli.pipeline import StageConfig
from lofa.errors import ConfigError
from lofa.training import AtomicCheckpointIO, Checkpoints, StopOnNonFinite

__all__ = ["build_trainer", "stage_config", "training_parts"]

_TRAINER = (
    *("strategy", "devices", "num_nodes", "logger", "callbacks", "plugins", "max_steps", "max_epochs"),
    *("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch", "use_distributed_sampler"),
    *("default_root_dir", "enable_progress_bar"),
)
"""Arguments of the trainer that the program gives."""


def stage_config(config: TrainConfig) -> StageConfig:
    """How the stage is trained that is asked for."""
    return config.stages.s1 if config.stage == 1 else config.stages.s2


def training_parts(config: TrainConfig) -> dict[str, Blueprint]:
    """The objects of the stage that is trained: optimizer, scheduler, module, trainer; strategy and logger where there
    are such; callbacks.<name>.

    Raises:
        ConfigError: a class that is not there, an argument that it does not take, or a negative value.
    """
    key, stage = f"stages.s{config.stage}", stage_config(config)
    plugin, trainer = dict(config.strategy.plugin), dict(config.trainer)
    if "data_parallel_size" in plugin and plugin["data_parallel_size"] is None:
        plugin["data_parallel_size"] = _count_devices(config) * config.strategy.num_nodes
    trainer.pop("enable_progress_bar", None)  # ours counts steps
    for name in ("gradient_clip_val", "log_every_n_steps"):  # Lightning takes them: it would climb the loss, never log
        if (trainer.get(name) or 0) < 0:
            raise ConfigError(f"trainer.{name}={trainer[name]}: must be at least 0, or null")
    module = ("hypernet", "backbone", "optimizer", "scheduler", *(("seed",) if config.stage == 2 else ()))
    parts = {
        "optimizer": Blueprint(f"{key}.optimizer", stage.optimizer, positional=1),
        "scheduler": Blueprint(f"{key}.scheduler", stage.scheduler, positional=1),
        "module": Blueprint(f"{key}.module", stage.module, added=module),
        "trainer": Blueprint("trainer", trainer, added=_TRAINER),
    }
    if plugin:
        parts["strategy"] = Blueprint("strategy.plugin", plugin)
    if config.logger.get("_target_"):
        parts["logger"] = Blueprint("logger", config.logger, added=("save_dir",))
    parts |= {f"callbacks.{name}": Blueprint(f"callbacks.{name}", node) for name, node in config.callbacks.items()}
    for part in parts.values():
        part.check()
    return parts


def build_trainer(
    parts: Mapping[str, Blueprint], config: TrainConfig, run: Path, checkpoints: Checkpoints, own: Sequence[Callback]
) -> Trainer:
    """The trainer of a stage, writing into `run`, with the program's `own` callbacks.

    Raises:
        ConfigError: devices or a precision that are not to be had here.
    """
    stage, devices = stage_config(config), config.strategy.devices
    named = [part.make(Callback) for name, part in parts.items() if name.startswith("callbacks.")]
    strategy, logger = parts.get("strategy"), parts.get("logger")
    return parts["trainer"].make(
        Trainer,
        strategy="auto" if strategy is None else strategy.make(Strategy),  # type: ignore[type-abstract]
        devices=list(devices) if isinstance(devices, tuple) else devices,
        num_nodes=config.strategy.num_nodes,
        logger=False if logger is None else logger.make(Logger, save_dir=str(run)),  # type: ignore[type-abstract]
        callbacks=[StopOnNonFinite(), *own, *named, checkpoints],
        plugins=[AtomicCheckpointIO()],
        max_steps=stage.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=stage.accumulate,
        val_check_interval=stage.val_every * stage.accumulate,
        check_val_every_n_epoch=None,
        **({} if checkpoints.validated else {"limit_val_batches": 0}),
        use_distributed_sampler=False,
        default_root_dir=str(run),
        enable_progress_bar=False,
    )


def _count_devices(config: TrainConfig) -> int:
    """Processes on one machine; "auto" means every GPU, or one process on a CPU."""
    devices = config.strategy.devices
    if devices != "auto":
        return devices if isinstance(devices, int) else len(devices)
    return 1 if config.trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())
