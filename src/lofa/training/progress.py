"""Progress of a training that counts steps, not epochs."""

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lofa.processes import is_first_process

__all__ = ["StepBar"]

_REFRESH_EVERY = 10
"""Steps between readings of the losses: a GPU has to be waited for."""


class StepBar(Callback):
    """A bar over the optimizer steps with the newest training and validation loss."""

    def __init__(self, title: str) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
        losses = TextColumn("{task.fields[losses]}")
        self._bar = Progress(TextColumn("{task.description}"), *columns, losses, disable=not is_first_process())
        self._task = self._bar.add_task(title, losses="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar, from the step that training goes on at."""
        self._bar.reset(self._task, total=trainer.max_steps, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=trainer.global_step)
        if trainer.global_step % _REFRESH_EVERY == 0 or trainer.global_step == trainer.max_steps:
            named = {"loss": "train/loss", "validation": "val/loss"}
            known = {title: key for title, key in named.items() if key in trainer.callback_metrics}
            losses = [f"{title} {float(trainer.callback_metrics[key]):.4f}" for title, key in known.items()]
            self._bar.update(self._task, losses=", ".join(losses))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the full bar standing."""
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the bar where it was."""
        self._bar.stop()
