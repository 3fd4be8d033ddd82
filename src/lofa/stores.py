"""Places in an object store or on a web server, told by a URL that fsspec opens: s3://bucket/set, https://host/set.

A store writes an object whole or not at all and knows no folders to make; a web server is read only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec
from fsspec import AbstractFileSystem

from lofa.errors import DataError

__all__ = ["Location", "Place", "StorePath", "locate"]


@dataclass(frozen=True)
class StorePath:
    """A place in a store, which answers in the words of pathlib.Path.

    It holds no connection, so it travels to other processes; fsspec keeps one for each of them.

    Raises:
        DataError: from every question, what the store's driver raises; a missing object is a FileNotFoundError.
    """

    protocol: str
    key: PurePosixPath

    def __str__(self) -> str:
        return f"{self.protocol}://{'' if self.key == PurePosixPath() else self.key}"

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(self.protocol, self.key / name)

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def parent(self) -> "StorePath":
        return StorePath(self.protocol, self.key.parent)

    def resolve(self) -> "StorePath":
        return self

    @contextmanager
    def _opened(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The store and the object's name in it."""
        try:
            yield fsspec.url_to_fs(str(self))
        except (FileNotFoundError, DataError):
            raise
        except Exception as error:  # every driver has errors of its own
            raise DataError(f"{self}: {type(error).__name__}: {error}") from error

    def is_file(self) -> bool:
        with self._opened() as (store, name):
            return bool(store.isfile(name))

    def is_dir(self) -> bool:
        with self._opened() as (store, name):
            return bool(store.isdir(name))

    def glob(self, pattern: str) -> list["StorePath"]:
        """What lies below and fits the pattern, asked anew each time; a web server has to list its folders for it."""
        with self._opened() as (store, name):
            store.invalidate_cache(name)
            found = store.glob(f"{name}/{pattern}")
        depth = len(PurePosixPath(pattern).parts)
        return [StorePath(self.protocol, self.key.joinpath(*PurePosixPath(one).parts[-depth:])) for one in found]

    def read_bytes(self) -> bytes:
        with self._opened() as (store, name):
            return bytes(store.cat_file(name))

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def size(self) -> int:
        """Bytes of the object."""
        with self._opened() as (store, name):
            size = store.size(name)
        if size is None:
            raise DataError(f"{self}: the server doesn't tell its size, so it can't be read in parts")
        return int(size)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes from a begin up to an end, of several ranges at once, each as long as it was asked for.

        Raises:
            EOFError: the object ends before a range does.
        """
        with self._opened() as (store, name):
            begins, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
            parts = store.cat_ranges([name] * len(ranges), begins, ends, on_error="raise")
        lengths = [end - begin for begin, end in ranges]
        if any(len(part) < length for part, length in zip(parts, lengths, strict=True)):
            raise EOFError(f"ends before byte {max(ends)}")
        return [
            part if len(part) == length else part[begin : begin + length]  # a server without ranges sends it whole
            for part, begin, length in zip(parts, begins, lengths, strict=True)
        ]

    def upload(self, file: Path) -> None:
        """Makes a local file the object, in one piece (DataError: a folder, or a web server)."""
        if self.protocol in ("http", "https"):
            raise DataError(f"{self}: a web server can only be read; write to a folder or an object store")
        if file.is_dir():
            raise DataError(f"{self}: a folder can't be written to a store in one piece; write it to a disk")
        with self._opened() as (store, name):
            store.put_file(str(file), name)

    def download(self, file: Path) -> None:
        """Copies the object to a local file."""
        with self._opened() as (store, name):
            store.get_file(name, str(file))


Place = Path | StorePath
Location = str | Place


def locate(location: Location) -> Place:
    """The place that a path or URL means; `file://` is a path like any other.

    Raises:
        DataError: a URL whose kind of store is not known.
    """
    if not isinstance(location, str):
        return location
    protocol, mark, key = location.partition("://")
    if not mark:
        return Path(location)
    if protocol not in fsspec.available_protocols():
        raise DataError(f"{location}: no kind of store is called {protocol!r}; there are s3, gs, az, https, file ...")
    if protocol in ("file", "local"):
        return Path(fsspec.url_to_fs(location)[1])
    return StorePath(protocol, PurePosixPath(key))
