"""Training of one stage into a run directory, over finished objects."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import Trainer

from lofa.backbones import Backbone
from lofa.data import LoFADataModule
from lofa.errors import LofaError
from lofa.files import atomic_write
from lofa.predict import save_predictor
from lofa.processes import is_first_process
from lofa.training import Checkpoints, PredictorModule
from lofa.workflows.runs import CONFIG, finish_run, start_run

__all__ = ["Trained", "quieten_lightning", "train_stage"]


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        run: its directory; the predictor lies in its folder `predictor`.
        metrics: validation metrics of the weights that were kept.
        module: the LightningModule with these weights.
    """

    run: Path
    metrics: dict[str, float]
    module: PredictorModule = field(repr=False)


def train_stage(
    run: Path,
    module: PredictorModule,
    data: LoFADataModule,
    trainer: Trainer,
    checkpoints: Checkpoints,
    *,
    backbone: Backbone,
    conditions: Sequence[str],
    settings: Mapping[str, Any],
    summary: Mapping[str, Any],
    metadata: Mapping[str, str],
    checkpoint: Path | None = None,
) -> Trained:
    """Trains, keeps the weights that validated best, and writes the predictor.

    The directory is made now that everything is loaded, so a mistake before leaves nothing behind.

    Args:
        run: the run directory
        module, data: of the stage
        trainer: with `checkpoints` among its callbacks
        backbone: that of the module
        conditions: kinds of condition that the predictor reads
        settings: plain values that the run is started with, for its config.yaml
        summary: what later commands find the run by, for its run.json
        metadata: header strings of the predictor's files
        checkpoint: where the training goes on from; None: from nothing
    """
    before = (run / CONFIG).read_bytes() if checkpoint is not None else b""
    start_run(run, settings)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except LofaError:
        if before and not trainer.global_step and is_first_process():  # the checkpoint is of another training
            with atomic_write(run / CONFIG) as temporary:
                temporary.write_bytes(before)
        raise
    metrics = _keep_best(trainer, checkpoints, module, data)
    save_predictor(
        run / "predictor",
        backbone,
        conditions=list(conditions),
        hypernet=module.hypernet,
        metadata={"run": run.name, **metadata},
    )
    facts = {"backbone_fingerprint": backbone.fingerprint, "steps": trainer.global_step, "metrics": metrics}
    finish_run(run, {**summary, **facts})
    return Trained(run, metrics, module)


def _keep_best(
    trainer: Trainer, checkpoints: Checkpoints, module: PredictorModule, data: LoFADataModule
) -> dict[str, float]:
    """Puts the weights that validated best into the module and gives their metrics; the last without validation."""
    best = checkpoints.find_best(trainer.global_step)
    if best is None:
        return {}
    trainer.loggers = []  # the log ends with the training
    (metrics,) = trainer.validate(module, data, ckpt_path=best, verbose=False, weights_only=True)
    return {name: float(value) for name, value in metrics.items()}


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
