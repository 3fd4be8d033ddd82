"""Why a training ends before its last step: a signal asks for it, or the numbers are no numbers any more."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lofa.errors import LofaError

__all__ = ["StopOnNonFinite", "StopRequest", "TrainingDiverged", "TrainingStopped"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class TrainingStopped(LofaError):
    """A signal stopped the training, once its state was saved."""


class TrainingDiverged(LofaError):
    """Loss or gradients hold NaN or infinity; the weights are those before this step."""


class StopRequest:
    """Ctrl-C, SIGTERM and SIGUSR1 (which SLURM sends before the time is up), while the block lasts.

    While they are deferred the first one is only noted in `requested`, for the training to look at between two steps;
    any other is a KeyboardInterrupt, which Lightning hands on to the processes that it started.

    Args:
        follower: this process was started by another and ends with it. It only notes signals, whenever they come: the
            first would wait half an hour for one that left before they had found each other
    """

    def __init__(self, follower: bool = False) -> None:
        self._follower = follower
        self.requested: signal.Signals | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread gets signals
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self._install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self, wanted: bool) -> None:
        """Whether signals are only noted from now on; Lightning, which may have taken some over, does not get them."""
        self._deferred = wanted
        if wanted:
            self._install()

    def _install(self) -> None:
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._follower and (not self._deferred or self.requested is not None):
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)


class StopOnNonFinite(Callback):
    """Stops a training at the step whose loss or gradients hold NaN or infinity, before the weights take it up.

    Raises:
        TrainingDiverged: on every process, whichever saw it.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the gradients. Where they are scaled (16-mixed), the scaler leaves such steps out by itself."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self._check(trainer, torch.nn.utils.get_total_norm(gradients), "the gradient is")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss."""
        self._check(trainer, loss.detach(), "the loss is")

    def _check(self, trainer: Trainer, value: Tensor, what: str) -> None:
        if not trainer.strategy.reduce_boolean_decision(bool(value.isfinite()), all=True):
            raise TrainingDiverged(f"{what} NaN or infinite at step {trainer.global_step + 1}")
