"""Learning-rate schedules, stepped once an optimizer step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["warmup_schedule"]


def warmup_schedule(optimizer: Optimizer, *, warmup: int, total: int | None = None, floor: float = 0.0) -> LambdaLR:
    """Linear warm-up to the optimizer's rate, then constant, or a cosine down to `floor` times the rate.

    Args:
        optimizer: its `lr` is the peak
        warmup: steps of the warm-up
        total: step at which the cosine ends; None keeps the rate constant after the warm-up
        floor: fraction of the peak that the cosine ends at

    Raises:
        ValueError: a warm-up as long as the whole training, or values that are none of these.
    """
    if warmup < 0 or (total is not None and total < 1) or not 0 <= floor <= 1:
        raise ValueError(f"warmup={warmup}, total={total}, floor={floor}: steps, and a fraction from 0 to 1")
    if total is not None and warmup >= total:
        raise ValueError(f"a warm-up of {warmup} steps leaves nothing of a training of {total} steps")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if total is None:
            return 1.0
        done = min(1.0, (step - warmup) / (total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)
