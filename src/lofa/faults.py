"""What a disk refuses, as one error with the place that was to be written; temporary names are not the user's."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lofa.errors import WriteError

__all__ = ["disk_fault", "write_faults"]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk_fault(error: BaseException, place: object) -> WriteError | None:
    """What the disk answered to a write of `place`, None where the error is no such answer."""
    number = _number(error)
    return None if number is None else WriteError(place, os.strerror(number), number in _NO_SPACE)


def _number(error: BaseException) -> int | None:
    if isinstance(error, SafetensorError):  # says it in words alone
        match = re.search(r"\(os error (\d+)\)", str(error))
        return int(match[1]) if match else None
    return error.errno if isinstance(error, OSError) else None


@contextmanager
def write_faults(goal: Path, temporary: Path) -> Iterator[None]:
    """Says as WriteError what goes wrong with a write that goes to `temporary` first, a file or folder.

    The error names `goal`, the file of it that is below, or the folder above it that can't be made. An error of
    something else that the block does goes through.
    """
    try:
        yield
    except WriteError as error:  # of a write within this one
        place = _place(error.place, goal, temporary)
        raise WriteError(place or error.place, error.reason, error.no_space) from None
    except (OSError, SafetensorError) as error:
        name = getattr(error, "filename", None)
        place = _place(name, goal, temporary)
        if name is None and _number(error) in (*_NO_SPACE, errno.EROFS):  # what only a write can meet
            place = goal
        fault = None if place is None else disk_fault(error, place)
        if fault is None:
            raise
        raise fault from None


def _place(name: object, goal: Path, temporary: Path) -> Path | None:
    """What a name on the way to `goal` stands for, None for any other."""
    if not isinstance(name, str | Path):
        return None
    path = Path(name)
    if path.is_relative_to(temporary):
        return goal / path.relative_to(temporary)
    return path if goal.is_relative_to(path) else None
