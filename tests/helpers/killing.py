"""Processes that are killed at random moments."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["kill_now_and_then"]

FORK = multiprocessing.get_context("fork")  # what is imported and loaded stays so


def kill_now_and_then(
    target: Callable[..., Any],
    args: Sequence[Any],
    seconds: float,
    rng: random.Random,
    kills: int = 3,
    between: Callable[[], Sequence[Any]] | None = None,
    signals: Sequence[int] = (signal.SIGKILL,),
) -> int:
    """Runs a function in one process after the other, each sent a signal at some moment.

    Args:
        target: the function
        args: its arguments
        seconds: how long it runs when nobody disturbs it; moments are drawn from as long
        rng: draws moments and signals
        kills: processes
        between: called after each, gives the arguments of the next
        signals: one of these is drawn

    Returns:
        how many were still running when the signal came
    """
    hit = 0
    for _ in range(kills):
        one = FORK.Process(target=target, args=tuple(args))
        one.start()
        one.join(rng.uniform(0, seconds))
        if one.is_alive():
            hit += 1
            os.kill(one.pid or 0, rng.choice(list(signals)))
        one.join()
        args = args if between is None else between()
    return hit
