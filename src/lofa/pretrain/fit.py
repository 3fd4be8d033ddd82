"""The one training loop of the pre-training recipe: AdamW, warm-up, decay to zero, a progress bar."""

from collections.abc import Callable, Iterable

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from lofa.pretrain.options import Schedule

__all__ = ["fit"]


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
