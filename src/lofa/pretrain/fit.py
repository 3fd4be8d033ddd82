"""What the trainings of the recipe share: the loop (AdamW, warm-up, decay to zero) and matching pairs by contrast."""

from collections.abc import Callable, Iterable

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from lofa.pretrain.options import Schedule

__all__ = ["contrastive_loss", "fit", "share_found"]


def fit(
    title: str,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    loss_of_step: Callable[[int], Tensor],
    console: Console,
) -> None:
    """Runs `loss_of_step(step)`, its backward and an AdamW step `schedule.steps` times.

    Every tenth of the way one line with the mean loss stays on the console, so that a log file tells the course too.
    """
    parameters = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    losses: list[float] = []
    tenth = max(1, schedule.steps // 10)
    for step in track(range(schedule.steps), title, console=console, transient=True):
        loss = loss_of_step(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % tenth == 0:
            mean = sum(losses[-tenth:]) / tenth
            console.print(f"{title}: step {step + 1} of {schedule.steps}, loss {mean:.4f}")


def contrastive_loss(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two rows of embeddings (B, D); row i of one belongs to row i of the other."""
    logits = scale * left @ right.T
    goal = torch.arange(len(logits))
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


def share_found(queries: Tensor, keys: Tensor) -> Tensor:
    """Share () of the queries (B, D) whose nearest key (B, D) by scalar product is the one of their own row."""
    return ((queries @ keys.T).argmax(1) == torch.arange(len(queries))).float().mean()
