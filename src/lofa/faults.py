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

_NO_SPACE = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it is larger than files may be here",
}
_REASONS = {
    **_NO_SPACE,
    errno.EROFS: "the disk is read only",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands there",
    errno.ENAMETOOLONG: "the name is too long",
}
_WRITING = {*_NO_SPACE, errno.EROFS}
"""What only a write can meet, so that it need not name a file."""


def disk_fault(error: BaseException, place: object) -> WriteError | None:
    """What the disk answered to a write of `place`, None where the error is no such answer."""
    number = _number(error)
    if number is None:
        return None
    return WriteError(place, _REASONS.get(number) or os.strerror(number), number in _NO_SPACE)


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
        place, named = None, False
        for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
            named = named or name is not None
            place = place or _place(name, goal, temporary)
        if place is None and (not named and _number(error) in _WRITING):
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
