"""Processes that are killed at random moments."""

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

__all__ = ["finish", "kill_now_and_then", "start"]


def start(target: Callable[..., Any], args: Sequence[Any]) -> int:
    """Forks a process, of a group of its own, that calls a function and ends; gives its number."""
    child = os.fork()
    if child:
        with suppress(OSError):  # whichever of the two is first
            os.setpgid(child, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        target(*args)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(child: int, seconds: float | None = None) -> int | None:
    """Waits, for ever or so long, until a process ends; its exit code, None where it goes on."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.005)


def kill_now_and_then(
    target: Callable[..., Any],
    args: Sequence[Any],
    seconds: float,
    rng: random.Random,
    kills: int = 3,
    between: Callable[[], Sequence[Any]] | None = None,
    signals: Sequence[int] = (signal.SIGKILL,),
    earliest: float = 0.0,
) -> int:
    """Runs a function in one process after the other, each sent a signal at some moment.

    SIGTERM goes to the process alone, as schedulers send it; the others to its whole group, as a terminal's Ctrl-C and
    a machine that stops do.

    Args:
        target: the function
        args: its arguments
        seconds: how long it runs when nobody disturbs it; moments are drawn from as long
        rng: draws moments and signals
        kills: processes
        between: called after each, gives the arguments of the next
        signals: one of these is drawn
        earliest: seconds before the first moment

    Returns:
        how many were still running when the signal came
    """
    hit = 0
    for _ in range(kills):
        child = start(target, args)
        if finish(child, rng.uniform(earliest, seconds)) is None:
            hit += 1
            number = rng.choice(list(signals))
            (os.kill if number == signal.SIGTERM else os.killpg)(child, number)
            finish(child)
        with suppress(ProcessLookupError):  # processes that it started and that hang without it
            os.killpg(child, signal.SIGKILL)
        args = args if between is None else between()
    return hit
