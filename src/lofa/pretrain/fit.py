"""The one training loop of the pre-training recipe: AdamW, warm-up, decay to zero, a progress bar."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from lofa.errors import ConfigError

__all__ = ["Schedule", "fit"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one model is trained."""

    steps: int
    """optimiser steps"""
    batch: int
    """samples a step"""
    lr: float
    """peak learning rate, reached after the warm-up, then lowered linearly to 0"""
    warmup: float = 0.05
    """share of the steps spent warming up"""
    weight_decay: float = 0.01
    clip: float = 1.0
    """largest gradient norm"""

    def __post_init__(self) -> None:
        sizes = {"steps": self.steps, "batch": self.batch}
        wrong = [name for name, size in sizes.items() if size < 1] + [
            name for name in ("lr", "warmup", "weight_decay", "clip") if not 0 <= getattr(self, name) < math.inf
        ]
        if wrong:
            raise ConfigError(
                f"{wrong[0]}={getattr(self, wrong[0])}: a schedule has at least one step and sample, and no number "
                "below 0"
            )

    def rate(self, step: int) -> float:
        """Learning rate of step `step` as a share of the peak."""
        warm = max(1, round(self.warmup * self.steps))
        return min((step + 1) / warm, (self.steps - step) / max(1, self.steps - warm))


def fit(
    title: str,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    loss_of_step: Callable[[int], Tensor],
    console: Console,
) -> list[float]:
    """Runs `loss_of_step(step)`, its backward and an AdamW step `schedule.steps` times; returns every loss.

    Every tenth of the way one line with the mean loss stays on the console, so that a log file tells the course too.
    """
    parameters = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    losses: list[float] = []
    tenth = max(1, schedule.steps // 10)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=schedule.steps)
        for step in range(schedule.steps):
            loss = loss_of_step(step)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            progress.advance(task)
            if (step + 1) % tenth == 0:
                recent = sum(losses[-tenth:]) / tenth
                console.print(f"{title}: step {step + 1} of {schedule.steps}, loss {recent:.4f}")
    return losses
