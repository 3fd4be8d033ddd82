"""Progress of a training that counts steps, not epochs."""

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["StepBar"]


class StepBar(Callback):
    """A bar over the optimizer steps with the newest training and validation loss."""

    def __init__(self, title: str, refresh_every: int = 10) -> None:
        self._title, self._refresh_every = title, refresh_every
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar, from the step that training goes on at."""
        if not trainer.is_global_zero:
            return
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(TextColumn("{task.description}"), *columns, TextColumn("{task.fields[losses]}"))
        self._bar.add_task(self._title, total=trainer.max_steps, completed=trainer.global_step, losses="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Moves the bar; losses are read now and then only, for a GPU has to be waited for."""
        if self._bar is None:
            return
        if trainer.global_step % self._refresh_every and trainer.global_step < trainer.max_steps:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step)
            return
        named = {"loss": "train/loss", "validation": "val/loss"}
        known = {
            title: trainer.callback_metrics[key] for title, key in named.items() if key in trainer.callback_metrics
        }
        losses = ", ".join(f"{title} {float(value):.4f}" for title, value in known.items())
        self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, losses=losses)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the full bar standing."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the bar where it was."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
