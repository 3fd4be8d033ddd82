"""Places: a path on a disk, or a URL of an object store or a web server (s3://bucket/set, https://host/set).

A store writes an object whole or not at all and knows no folders to make; a web server is read only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from lofa.errors import DataError

__all__ = ["Location", "Place", "address", "driver_faults", "locate"]

Place = Path | UPath
Location = str | Place


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
        place = UPath(location, use_listings_cache=False)  # what others write is seen
    except ValueError as error:
        raise DataError(f"{location}: {error}; there are s3, gs, az, https, file ...") from None
    return Path(place.path) if place.protocol in ("file", "local") else place


def address(place: Place) -> str:
    """A place's one name, from wherever it is asked for."""
    return str(place.resolve() if isinstance(place, Path) else place)


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
