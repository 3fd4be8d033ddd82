"""Reading and writing files safely: safetensors and json, foreign torch files with weights only; every write atomic.

A write goes to a temporary name beside its goal, is flushed to disk, then renamed: a reader sees the old file or
the whole new one, never a part, also after a crash. What the disk refuses is a WriteError with the goal's name. Where a
path is a URL (`lofa.paths`), the object is put whole.
"""

import hashlib
import io
import json
import mmap
import os
import pickle
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file
from torch import Tensor

from lofa.errors import DataError
from lofa.faults import write_faults
from lofa.paths import Location, driver_faults, locate
from lofa.ranges import open_tensors
from lofa.targets import FILE, Kind, check_target

__all__ = [
    "append_jsonl",
    "atomic_write",
    "digest",
    "local_copy",
    "read_json",
    "read_jsonl",
    "read_metadata",
    "read_tensors",
    "read_torch",
    "remove_temporaries",
    "save_tensors",
    "save_torch",
    "temporaries",
    "tensor_shapes",
    "write_json",
    "write_jsonl",
]


_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Location, replaces: Kind = FILE) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; what was written there takes its name when the block ends.

    The temporary path may be made a file or a folder. What stands at `path` is replaced if it is of the kind
    `replaces`: a file by default, and no folder ever that is not known by its content. If the block raises, nothing is
    left behind and `path` is as it was. For an object of a store the temporary path is a local one, and a file.

    Raises:
        DataError: of a web server, or what a store's driver raises.
        TargetError: something else stands there.
        WriteError: the disk is full or read only, the folder belongs to others ...
    """
    path = locate(path)
    if not isinstance(path, Path):
        if path.protocol in ("http", "https"):
            raise DataError(f"{path}: a web server can only be read; write to a folder or an object store")
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            with write_faults(temporary, temporary):
                yield temporary
            with driver_faults(path):
                path.fs.put_file(str(temporary), path.path)
        return
    check_target(path, overwrite=True, kind=replaces)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        with write_faults(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_file():
                temporary.chmod(0o666 & ~_UMASK)  # safetensors makes files that only their owner may read
            for file in (temporary, *temporary.rglob("*")):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            check_target(path, overwrite=True, kind=replaces)  # what came meanwhile stays, too
            _take_place(temporary, path)
    finally:
        _remove(temporary)


def _take_place(temporary: Path, path: Path) -> None:
    """Renames what was written. A folder that stands there is set aside first: one whole version is there at any time.

    Killed between the two renames, the old one is left as `.<name>.<8 digits>.old` and the new one as a temporary.
    """
    if not path.is_dir():
        os.replace(temporary, path)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporaries(folder: Location) -> dict[Path, str]:
    """Temporary paths of `atomic_write` in a folder, of writes that go on or were killed; the name each was to take.

    A store never has any.
    """
    folder = locate(folder)
    if not isinstance(folder, Path):
        return {}
    made = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp(\.[^.]+)?")
    found = {}
    for path in folder.glob(".*.tmp*"):
        name = path.name
        while match := made.fullmatch(name):  # one write may be within another
            name = match[1]
        if name != path.name:
            found[path] = name
    return found


def remove_temporaries(folder: Location, alone: Callable[[], bool], goals: Collection[str] = ()) -> None:
    """Removes the temporaries that killed writes left in a folder.

    Args:
        alone: whether nobody else writes in the folder; those on the way to `goals` alone are removed where it is False
        goals: names that only this process writes
    """
    found = temporaries(folder)  # before asking who else writes: what is made later is not among them
    everything = alone()
    for path, goal in found.items():
        if everything or goal in goals:
            _remove(path)


def write_json(path: Location, value: object) -> None:
    """Writes `value` as indented json; NaN and infinity are refused (ValueError), they are no json."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read_bytes(path: Location) -> bytes:
    place = locate(path)
    try:
        with driver_faults(place):
            return place.read_bytes() if isinstance(place, Path) else place.fs.cat_file(place.path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None


def read_json(path: Location) -> Any:
    """Reads a json file.

    Raises:
        DataError: the file is missing or no json.
    """
    try:
        return json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a json file ({error})") from None


def write_jsonl(path: Location, values: Iterable[object]) -> None:
    """Writes values as json lines, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(value, allow_nan=False) + "\n" for value in values), encoding="utf-8")


def append_jsonl(path: Location, value: object) -> None:
    """Appends one json line, flushed to disk, whole or not at all; a last line that a crash tore is cut off first.

    A store can't append: its object is written anew with the line, so it must have one writer.
    """
    path = locate(path)
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    if not isinstance(path, Path):
        before = _read_bytes(path) if path.is_file() else b""
        with atomic_write(path) as temporary:
            temporary.write_bytes(before + line)
        return
    with write_faults(path, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            last = _last_line(file, end)
            if _is_torn(last):
                end -= len(last)
                file.truncate(end)
            elif last:
                line = b"\n" + line
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


def _last_line(file: BinaryIO, end: int) -> bytes:
    """What a file of `end` bytes holds behind its last line break."""
    if not end:
        return b""
    with mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ) as data:
        return data[data.rfind(b"\n") + 1 :]


def _is_torn(last: bytes) -> bool:
    """Whether a last line without its break was torn by a crash: an object is whole with its last brace alone."""
    try:
        return bool(last) and not isinstance(json.loads(last), dict | list)
    except (ValueError, RecursionError):
        return True


def read_jsonl(path: Location, torn: bool = False) -> Iterator[Any]:
    """Reads json lines one by one; a line ends at a line feed alone, and blank lines count for nothing.

    Args:
        torn: the file is one that lines are appended to, so a crash may have torn the last one: it is passed over

    Raises:
        DataError: the file is missing, or another line is no json; the line is named.
    """
    lines = _read_bytes(path).split(b"\n")
    if torn and _is_torn(lines[-1]):
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: damaged, no json ({error}); mend it or delete the line") from None


def save_tensors(path: Location, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors (any device, copied to contiguous CPU memory) and string metadata as safetensors.

    The same content gives the same bytes.
    """
    with atomic_write(path) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            temporary,
            dict(metadata or {}),
        )
        _sort_header(temporary)


def _sort_header(path: Path) -> None:
    """Puts the header's strings in order, which safetensors leaves to chance."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        strings = header.pop("__metadata__", None)
        if not strings:
            return
        ordered = {"__metadata__": dict(sorted(strings.items())), **header}
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise ValueError(f"{path}: its header can't be put in order ({len(text)} bytes for {size})")
        file.seek(8)
        file.write(text.ljust(size))


def read_tensors(path: Location, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Reads the named tensors (all by default); the bytes of the others are not touched.

    Raises:
        DataError: the file is missing, truncated, no safetensors, or lacks a name.
    """
    with open_tensors(path) as file:
        return file.read(names)


@contextmanager
def local_copy(path: Location) -> Iterator[Path]:
    """Gives the path itself, or a copy of a store's object for the length of the block (DataError: it is missing)."""
    path = locate(path)
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(_read_bytes(path))
        yield copy


def read_torch(path: str | Path, mmap: bool = False) -> Any:
    """What a foreign torch file holds, opened with weights only, on the CPU; with `mmap` mapped rather than read.

    Raises:
        DataError: the file is missing, damaged, or holds more than tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable file of tensors alone ({reason})") from None


def save_torch(path: Location, values: object) -> None:
    """Writes tensors and plain containers as a torch file, for readers of other code."""
    whole = io.BytesIO()  # torch's own writer to a path hides what the disk answered
    torch.save(values, whole)
    with atomic_write(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def read_metadata(path: Location) -> dict[str, str]:
    """Reads the string metadata of a safetensors header (DataError as in `read_tensors`)."""
    with open_tensors(path) as file:
        return file.metadata


def tensor_shapes(path: Location) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header alone (DataError as in `read_tensors`)."""
    with open_tensors(path) as file:
        return file.shapes


def digest(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
