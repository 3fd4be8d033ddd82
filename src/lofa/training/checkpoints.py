"""Checkpoints of a run: killed at any moment and resumed, it ends as if it had never stopped, bit for bit.

`last.ckpt` holds the state after some number of steps and before the validation that is due then, if one is. So a
resumed run validates first where that is due, and nothing is validated on weights that nobody saw, nor left out.
`best.ckpt` holds the state that validated best. Both lie in the run's folder under fixed names, so that a run can be
moved or copied.
"""

import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from lofa.errors import LofaError
from lofa.files import read_torch, remove_temporaries, save_torch
from lofa.training.csv_log import CsvLog
from lofa.training.stopping import StopRequest, TrainingStopped

__all__ = ["LAST", "AtomicCheckpointIO", "Checkpoints"]

LAST, BEST = "last.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files beside their goal, flushed, then renamed; read as tensors and plain containers alone.

    Lightning writes by way of TMPDIR: where that is another disk, a kill leaves half a file, and the old one is gone.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Writes a checkpoint, whole or not at all."""
        save_torch(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU, whatever else is asked (DataError: missing, damaged, more than tensors)."""
        checkpoint: dict[str, Any] = read_torch(path)
        return checkpoint


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` and `best.ckpt`, and stops a training that is asked to, once it is saved.

    Args:
        folder: of both files
        every: optimizer steps between checkpoints, and between validations
        validated: whether there is a validation at these steps
        stop: signals, looked at between two steps
    """

    def __init__(self, folder: Path, every: int, validated: bool, stop: StopRequest) -> None:
        self.last, self.best = folder / LAST, folder / BEST
        self._every, self.validated, self._stop = every, validated, stop
        self.score: float | None = None
        """validation loss of `best.ckpt`; None before there is one"""
        self._rows: int | None = None
        self._saved: int | None = None
        self._max_steps: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best loss, and the rows of the csv log that belong to the steps before the checkpoint."""
        return {"score": self.score, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.score, self._rows = state_dict["score"], state_dict["rows"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the state of the loops as it is between two steps, whichever hook saves."""
        loops = checkpoint["loops"]["fit_loop"]
        for part in ("total", "current"):
            batches, epochs = loops["epoch_loop.batch_progress"][part], loops["epoch_progress"][part]
            batches["ready"] = batches["completed"]
            epochs["processed"] = epochs["completed"] = 0  # the one epoch has no end

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lets a run that has all its steps, but not its last validation, begin once more, for that alone."""
        step = checkpoint["global_step"]
        loops = checkpoint["loops"]["fit_loop"]
        if loops["state_dict"].pop("combined_loader", None):  # of LoFA 0.1.0, which counted epochs and the place in one
            batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
            batches |= {"current": dict(batches["total"]), "is_last_batch": False}
            epochs["current"] |= {"processed": 0, "completed": 0}
        if _fitting(trainer) and self._due(step) and step == trainer.max_steps:
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = step, step + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits with signals, removes what a killed process left half-written.

        In a resumed run, cuts the log to the checkpoint and validates where that is due.
        """
        self._stop.defer(True)
        if trainer.is_global_zero:
            remove_temporaries(self.last.parent, lambda: True)
        if not trainer.global_step:
            return
        self._saved = trainer.global_step
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        for logger in trainer.loggers:
            if isinstance(logger, CsvLog):
                logger.rewind(self._rows)
        if self._due(trainer.global_step):
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Between two steps: saves where that is due without validation, and stops where that is wanted."""
        if batch_idx % trainer.accumulate_grad_batches or not trainer.global_step:
            return
        self._stop_where_wanted(trainer)
        if trainer.global_step % self._every == 0 and not self.validated:
            self._save_last(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves before validation."""
        if _fitting(trainer):
            self._save_last(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Stops where that is wanted."""
        if _fitting(trainer):
            self._stop_where_wanted(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best."""
        if not _fitting(trainer):
            return
        score = float(trainer.callback_metrics["val/loss"])
        if math.isfinite(score) and (self.score is None or score < self.score):
            self.score = score
            trainer.save_checkpoint(self.best)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last steps, where no checkpoint fell on them."""
        self._save_last(trainer)
        self._stop.defer(False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """From now on signals interrupt at once."""
        self._stop.defer(False)

    def find_best(self, step: int) -> Path | None:
        """The checkpoint that validated best of a run of `step` steps; None where it never validated.

        Raises:
            LofaError: no validation gave a number.
        """
        if not self.validated or step < self._every:
            return None
        if self.score is None:
            raise LofaError("no validation gave a finite loss")
        return self.best

    def _due(self, step: int) -> bool:
        return self.validated and step % self._every == 0

    def _save_last(self, trainer: Trainer) -> None:
        if self._saved == trainer.global_step:
            return
        self._saved = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
            if isinstance(logger, CsvLog):
                self._rows = len(logger.rows)
        trainer.save_checkpoint(self.last)

    def _stop_where_wanted(self, trainer: Trainer) -> None:
        """Ends the training, once it is saved, where any process got a signal."""
        if trainer.strategy.reduce_boolean_decision(self._stop.requested is not None, all=False):
            self._save_last(trainer)
            by = self._stop.requested.name if self._stop.requested else "a signal to another process"
            raise TrainingStopped(f"stopped by {by} after step {trainer.global_step}")


def _fitting(trainer: Trainer) -> bool:
    """Whether a training runs, or a validation that belongs to it."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
