"""safetensors files read by ranges of bytes, on a disk or in an object store: the header, then the tensors asked for.

Mapping a file, as safetensors' own reader does, draws in what lies around each tensor: where the disk reads 8 MiB
ahead, ten of 240 layers cost the whole file. Here every byte read was asked for.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import torch
from fsspec.utils import merge_offset_ranges
from torch import Tensor
from upath import UPath

from lofa.errors import DataError
from lofa.paths import Location, Place, driver_faults, locate

__all__ = ["TensorFile", "open_tensors"]

_FIRST = 1 << 17  # bytes of the first read, which the header of a LoRA of 240 layers (53 kB) fits into
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it
_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32, "U64": torch.uint64,
    "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip

Reader = Callable[[Sequence[tuple[int, int]]], Sequence[bytes | bytearray]]


class TensorFile:
    """What the header of an open safetensors file says, and its tensors.

    Args:
        place: of the file, for messages
        size: of the file, bytes
        read: gives the bytes of ranges [begin, end); EOFError where the file ends before

    Raises:
        DataError: the header is none, or does not account for every byte of the file.
    """

    def __init__(self, place: Place, size: int, read: Reader) -> None:
        self.place, self._read = place, read
        with _faults(place):
            (self._first,) = read([(0, min(size, _FIRST))])  # what it brings of the tensors is not read again
            self._begin = 8 + int.from_bytes(self._first[:8], "little")
            if size < 8 or self._begin > min(size, _LARGEST_HEADER):
                raise ValueError("no header, or cut off in it")
            if self._begin > len(self._first):
                self._first += read([(len(self._first), self._begin)])[0]
            self.metadata, self._tensors = _parse(self._first[8 : self._begin], size - self._begin)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, sorted by name."""
        return {name: stored.shape for name, stored in self._tensors.items()}

    def read(self, names: Iterable[str] | None = None, count: int | None = None) -> dict[str, Tensor]:
        """The named tensors (all by default), each with memory of its own.

        Args:
            count: that many values of each alone, the first ones; fewer where it has fewer

        Raises:
            DataError: a name is not there, or the file ends before a tensor does.
        """
        wanted: dict[str, _Stored] = {}
        for name in self._tensors if names is None else names:
            if name not in self._tensors:
                raise DataError(f"{self.place}: no tensor {name} among its {len(self._tensors)}")
            stored = self._tensors[name]
            shape = stored.shape if count is None else (min(count, math.prod(stored.shape)),)
            wanted[name] = stored._replace(shape=shape)
        begins = [self._begin + stored.begin for stored in wanted.values()]
        ranges = [(a, a + stored.size) for a, stored in zip(begins, wanted.values(), strict=True)]
        far = [one for one in ranges if one[1] > len(self._first)]
        with _faults(self.place):
            read = iter(self._read(far) if far else ())
        parts = (self._first[a:b] if b <= len(self._first) else next(read) for a, b in ranges)
        return {name: _tensor(stored, part) for (name, stored), part in zip(wanted.items(), parts, strict=True)}


class _Stored(NamedTuple):
    """An entry of a header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """in bytes, counted from the end of the header"""

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _parse(header: bytes | bytearray, size: int) -> tuple[dict[str, str], dict[str, _Stored]]:
    """The metadata and the entries of a header, sorted by name (ValueError: they are not those of `size` bytes)."""
    tensors: dict[str, _Stored] = {}
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", None) or {}
        for name, entry in sorted(entries.items()):
            begin, end = entry["data_offsets"]
            tensors[name] = stored = _Stored(_TYPES[entry["dtype"]], tuple(entry["shape"]), begin)
            if any(type(n) is not int or n < 0 for n in (*stored.shape, begin)) or end != begin + stored.size:
                raise ValueError(f"the header's entry of {name} is wrong: {str(entry)[:200]}")
        texts = all(isinstance(text, str) for text in metadata.values())
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the header is wrong: {error!r}") from None
    if not texts:
        raise ValueError("the header's metadata are no strings")
    reached = 0
    for stored in sorted(tensors.values(), key=lambda stored: (stored.begin, stored.size)):
        if stored.begin != reached:
            raise ValueError(f"its header has a hole or an overlap at byte {reached} of the tensors")
        reached += stored.size
    if reached != size:
        raise ValueError(f"{size} bytes of tensors, where its header announces {reached}")
    return metadata, tensors


def _tensor(stored: _Stored, data: bytes | bytearray) -> Tensor:
    if not data:
        return torch.empty(stored.shape, dtype=stored.dtype)
    own = data if isinstance(data, bytearray) else bytearray(data)
    return torch.frombuffer(own, dtype=stored.dtype).reshape(stored.shape)


def _disk_reader(file: BufferedReader) -> Reader:
    """Reads ranges of a local file; the disk is told which ones, and to read nothing ahead of them."""
    advise = getattr(os, "posix_fadvise", None)  # not on every system
    if advise is not None:
        advise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def read(ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        if advise is not None:
            for begin, end in ranges:
                advise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)
        return [_read_at(file, begin, end) for begin, end in ranges]

    return read


def _read_at(file: BufferedReader, begin: int, end: int) -> bytearray:
    data = bytearray(end - begin)
    file.seek(begin)
    if file.readinto(data) < len(data):
        raise EOFError(f"it ends before byte {end}")
    return data


def _store_reader(place: UPath) -> Reader:
    """Reads ranges of an object all at once, those that touch as one."""

    def read(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        begins, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
        paths, begins, ends = merge_offset_ranges([place.path] * len(ranges), begins, ends)
        with driver_faults(place):
            parts = place.fs.cat_ranges(paths, begins, ends, on_error="raise")
        found = []
        for begin, end, part in zip(begins, ends, parts, strict=True):
            if len(part) < end - begin:
                raise EOFError(f"it ends before byte {end}")
            # a server without ranges sends it whole
            found.append((begin, end, part if len(part) == end - begin else part[begin:end]))
        return [
            next(part[begin - a : end - a] for a, b, part in found if a <= begin and end <= b) for begin, end in ranges
        ]

    return read


@contextmanager
def _faults(place: Place, missing: str = "no such file") -> Iterator[None]:
    """Tells what is wrong with a file as DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{place}: {missing}") from None
    except (ValueError, RecursionError, EOFError, OSError) as error:
        raise DataError(f"{place}: not a whole safetensors file ({error}); make it again") from None


@contextmanager
def open_tensors(location: Location, missing: str = "no such file") -> Iterator[TensorFile]:
    """Opens a safetensors file.

    Raises:
        DataError: it is not there (`missing` says so), truncated or no safetensors.
    """
    place = locate(location)
    if isinstance(place, Path):
        with _faults(place, missing):
            file = place.open("rb")
        with file:
            yield TensorFile(place, os.fstat(file.fileno()).st_size, _disk_reader(file))
    else:
        with _faults(place, missing), driver_faults(place):
            size = place.fs.size(place.path)
        if size is None:
            raise DataError(f"{place}: the server doesn't tell its size, so it can't be read in parts")
        yield TensorFile(place, size, _store_reader(place))
