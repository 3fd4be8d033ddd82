"""The Lightning trainer of a stage: devices, checkpoints, and which weights are kept."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.strategies import Strategy
from omegaconf import OmegaConf

from lofa.cli.runs import CHECKPOINTS
from lofa.data import LoFADataModule
from lofa.training import AtomicCheckpointIO, Checkpoints, PredictorModule, StopOnNonFinite, StopRequest

__all__ = ["build_checkpoints", "build_trainer", "keep_best", "quieten_lightning"]


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


def build_trainer(
    config: Any, stage: Any, run: Path, checkpoints: Checkpoints, callbacks: Sequence[Callback]
) -> Trainer:
    """The trainer of a stage, writing into `run`.

    Raises:
        InstantiationException: devices or a precision that are not to be had here.
    """
    devices = OmegaConf.to_container(config.strategy, resolve=True)["devices"]
    logger = instantiate(config.logger, save_dir=str(run)) if config.logger._target_ else False
    return instantiate(
        config.trainer,
        strategy=_build_strategy(config, devices),
        devices=devices,
        num_nodes=config.strategy.num_nodes,
        logger=logger,
        callbacks=[StopOnNonFinite(), *callbacks, checkpoints],
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


def _build_strategy(config: Any, devices: Any) -> Strategy | str:
    plugin = config.strategy.plugin
    if plugin is None:
        return "auto"
    if "data_parallel_size" in plugin and plugin.data_parallel_size is None:
        return instantiate(plugin, data_parallel_size=_count_devices(config, devices) * config.strategy.num_nodes)
    return instantiate(plugin)


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
