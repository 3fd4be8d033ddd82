"""Names and places that a file tells: a name is one component of a path, a place stays below its folder."""

import re
from pathlib import Path
from typing import TypeVar

from lofa.errors import DataError
from lofa.stores import Place

__all__ = ["check_name", "inside"]

P = TypeVar("P", bound=Place)

_NAME = re.compile(r"\w[\w .,+=@()-]*")
_LONGEST = 200  # bytes, so that ending and temporary name fit into the 255 of a file system


def check_name(name: object, where: object) -> str:
    """A name that was read from a file and is to become one of a file.

    Args:
        where: it was read, for the message

    Raises:
        DataError: it is no text, empty, too long, or holds anything but letters, digits and "_ .,+=@()-" (the first
            character a letter, digit or "_"), so that it could lead elsewhere.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST:
        raise DataError(
            f"{where}: {str(name)[:100]!r} can't be a file's name; letters, digits and any of '_ .,+=@()-' can "
            f"(a letter, digit or _ first, {_LONGEST} bytes at most)"
        )
    return name


def inside(folder: P, path: P) -> P:
    """`path`, which lies below `folder` also where symbolic links lead; `folder` may be a link itself.

    Raises:
        DataError: it does not.
    """
    if isinstance(folder, Path) and isinstance(path, Path):
        real, home = path.resolve(), folder.resolve()
        if not real.is_relative_to(home) or real == home:
            raise DataError(
                f"{path}: leads out of {folder}, to {real}; names and symbolic links in it have to stay in it (the "
                "folder itself may be a link)"
            )
    return path
