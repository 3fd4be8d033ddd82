"""One process at a time, by a lock on a file.

The system ends a lock with the process that holds it, also when that is killed, so what lies about without a lock was
left behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lofa.faults import write_faults

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_locked", "locked"]


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
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
