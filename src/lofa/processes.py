"""Several processes: which of one training this one is, and one at a time by a lock on a file.

The system ends a lock with the process that holds it, also when that is killed, so what lies about without a lock was
left behind.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lofa.faults import write_faults

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_first_process", "is_locked", "locked"]


def is_first_process() -> bool:
    """Whether this process writes files (Lightning and torchrun number the processes in the environment)."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK"))


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock on a file, which is made where it is missing, for the time of the block.

    Gives whether the lock is ours now; also where the system knows no locks.
    """
    with write_faults(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        yield _lock(file)


def is_locked(path: Path) -> bool:
    """Whether another process, or this one, holds the lock on a file that is there."""
    with path.open("rb") as file:
        return not _lock(file, shared=True)


def _lock(file: BinaryIO, shared: bool = False) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
