"""The Lightning trainer of a stage: devices, checkpoints, and which weights are kept."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from omegaconf import OmegaConf

from lofa.cli.blueprints import Blueprint
from lofa.data import LoFADataModule
from lofa.errors import ConfigError
from lofa.training import AtomicCheckpointIO, Checkpoints, PredictorModule, StopOnNonFinite, StopRequest
from lofa.workflows.runs import CHECKPOINTS

__all__ = ["TrainingParts", "build_checkpoints", "build_trainer", "keep_best", "quieten_lightning", "training_parts"]

_TRAINER = (
    *("strategy", "devices", "num_nodes", "logger", "callbacks", "plugins", "max_steps", "max_epochs"),
    *("accumulate_grad_batches", "val_check_interval", "check_val_every_n_epoch", "use_distributed_sampler"),
    *("default_root_dir", "enable_progress_bar"),
)
"""Arguments of the trainer that the program gives."""

_MODULE = {
    1: ("hypernet", "backbone", "optimizer", "scheduler"),
    2: ("hypernet", "backbone", "optimizer", "scheduler", "seed"),
}
"""Arguments of a stage's module that the program gives."""


def quieten_lightning() -> None:
    """Its hints on hardware, products and workers say nothing that a user of this command could act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers",
        ".*LeafSpec",
        ".*barrier.*using the device",
        ".*Checkpoint directory",
    ):
        warnings.filterwarnings("ignore", message)


@dataclass(frozen=True)
class TrainingParts:
    """The objects of a training that the configuration names by class."""

    optimizer: Blueprint
    scheduler: Blueprint
    module: Blueprint
    trainer: Blueprint
    strategy: Blueprint | None
    logger: Blueprint | None
    callbacks: tuple[Blueprint, ...]

    def check(self) -> None:
        """Binds each class to its arguments; nothing is made (ConfigError)."""
        for part in (self.optimizer, self.scheduler, self.module, self.trainer, self.strategy, self.logger):
            if part is not None:
                part.check()
        for part in self.callbacks:
            part.check()


def training_parts(config: Any) -> TrainingParts:
    """The parts of the stage that is trained."""
    key = f"stages.s{config.stage}"

    def settings(name: str) -> dict[str, Any]:
        return OmegaConf.to_container(OmegaConf.select(config, name), resolve=True)

    trainer, logger = settings("trainer"), settings("logger")
    devices, nodes = settings("strategy")["devices"], config.strategy.num_nodes
    plugin = settings("strategy.plugin")
    if "data_parallel_size" in plugin and plugin["data_parallel_size"] is None:
        plugin["data_parallel_size"] = _count_devices(config, devices) * nodes
    trainer.pop("enable_progress_bar", None)  # ours counts steps
    if (trainer.get("gradient_clip_val") or 0) < 0:  # Lightning would climb the loss
        raise ConfigError(f"trainer.gradient_clip_val={trainer['gradient_clip_val']}: must be at least 0, or null")
    return TrainingParts(
        optimizer=Blueprint(f"{key}.optimizer", settings(f"{key}.optimizer"), positional=1),
        scheduler=Blueprint(f"{key}.scheduler", settings(f"{key}.scheduler"), positional=1),
        module=Blueprint(f"{key}.module", settings(f"{key}.module"), added=_MODULE[config.stage]),
        trainer=Blueprint("trainer", trainer, added=_TRAINER),
        strategy=Blueprint("strategy.plugin", plugin) if plugin else None,
        logger=Blueprint("logger", logger, added=("save_dir",)) if logger.get("_target_") else None,
        callbacks=tuple(Blueprint(f"callbacks.{name}", node) for name, node in settings("callbacks").items()),
    )


def build_trainer(
    parts: TrainingParts, config: Any, stage: Any, run: Path, checkpoints: Checkpoints, callbacks: Sequence[Callback]
) -> Trainer:
    """The trainer of a stage, writing into `run`.

    Raises:
        ConfigError: devices or a precision that are not to be had here.
    """
    devices = OmegaConf.to_container(config.strategy, resolve=True)["devices"]
    own = [part.make(Callback) for part in parts.callbacks]
    return parts.trainer.make(
        Trainer,
        strategy="auto" if parts.strategy is None else parts.strategy.make(Strategy),  # type: ignore[type-abstract]
        devices=devices,
        num_nodes=config.strategy.num_nodes,
        logger=False if parts.logger is None else parts.logger.make(Logger, save_dir=str(run)),  # type: ignore[type-abstract]
        callbacks=[StopOnNonFinite(), *callbacks, *own, checkpoints],
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


def _count_devices(config: Any, devices: Any) -> int:
    """Processes on one machine; "auto" means every GPU, or one process on a CPU."""
    if isinstance(devices, int | list):
        return devices if isinstance(devices, int) else len(devices)
    return 1 if config.trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())


def build_checkpoints(config: Any, stage: Any, run: Path, data: LoFADataModule, stop: StopRequest) -> Checkpoints:
    """Where and when a stage is saved, and how it stops."""
    validated = bool(len(data.val or ())) and config.trainer.limit_val_batches != 0
    return Checkpoints(run / CHECKPOINTS, stage.val_every, validated, stop)


def keep_best(
    trainer: Trainer, checkpoints: Checkpoints, module: PredictorModule, data: LoFADataModule
) -> dict[str, float]:
    """Puts the weights that validated best into the module and gives their metrics; the last without validation."""
    best = checkpoints.find_best(trainer.global_step)
    if best is None:
        return {}
    trainer.loggers = []  # the log ends with the training
    (metrics,) = trainer.validate(module, data, ckpt_path=best, verbose=False, weights_only=True)
    return {name: float(value) for name, value in metrics.items()}
