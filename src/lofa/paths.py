"""Places: a path on a disk, or a URL of an object store or a web server (s3://bucket/set, https://host/set).

A store writes an object whole or not at all and knows no folders to make; a web server is read only. A name that a file
tells is one component of a path, and a place that it tells stays below its folder.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from upath import UPath

from lofa.errors import DataError

__all__ = ["Location", "Place", "address", "check_name", "driver_faults", "inside", "listing", "locate"]

Place = Path | UPath
Location = str | Place
P = TypeVar("P", bound=Place)

_NAME = re.compile(r"\w[\w .,+=@()-]*")
_LONGEST = 200  # bytes, so that ending and temporary name fit into the 255 of a file system


def locate(location: Location) -> Place:
    """The place that a path or URL means; `file://` is a path like any other.

    Raises:
        DataError: a URL whose kind of store is not known.
    """
    if not isinstance(location, str):
        return location
    if "://" not in location:
        return Path(location)
    try:
        place = UPath(location)
    except ValueError as error:
        raise DataError(f"{location}: {error}; there are s3, gs, az, https, file ...") from None
    return Path(place.path) if place.protocol in ("file", "local") else place


def address(place: Place) -> str:
    """A place's one name, from wherever it is asked for."""
    return str(place.resolve() if isinstance(place, Path) else place)


def listing(folder: Place, pattern: str) -> list[Place]:
    """What lies in a folder by names that fit the pattern, in order; a store is asked anew each time."""
    with driver_faults(folder):
        if isinstance(folder, UPath):
            folder.fs.invalidate_cache(folder.path)
        found: list[Place] = list(folder.glob(pattern))
    return sorted(found, key=str)


@contextmanager
def driver_faults(place: Place) -> Iterator[None]:
    """Tells what a store's driver raises as DataError, a missing object as FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, DataError):
        raise
    except Exception as error:  # every driver has errors of its own
        if isinstance(place, Path):
            raise
        raise DataError(f"{place}: {type(error).__name__}: {error}") from error


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
            raise DataError(f"{path}: leads out of {folder}, to {real}; names and links in it have to stay in it")
    return path
