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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lofa.errors import DataError
from lofa.stores import Location, Place, StorePath, locate

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
            header = self._header(size)
            self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
            """strings of the header"""
            self._tensors = {name: _parse(name, entry) for name, entry in sorted(header.items())}
            _check_metadata(self.metadata)
            _check_ranges([stored.range for stored in self._tensors.values()], size - self._begin)

    def _header(self, size: int) -> dict[str, Any]:
        """The header's object; keeps the bytes that were read on the way to it."""
        (first,) = self._read([(0, min(size, _FIRST))])
        end = 8 + int.from_bytes(first[:8], "little")
        if size < 8 or end > min(size, _LARGEST_HEADER):
            raise ValueError("no header, or cut off in it")
        if end > len(first):
            first += self._read([(len(first), end)])[0]
        header = json.loads(first[8:end])
        if not isinstance(header, dict):
            raise ValueError("the header is no json object")
        self._first, self._begin = first, end
        return header

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, sorted by name."""
        return {name: stored.shape for name, stored in self._tensors.items()}

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The named tensors (all by default), each with memory of its own.

        Raises:
            DataError: a name is not there, or the file ends before a tensor does.
        """
        names = list(self._tensors if names is None else names)
        lacking = next((name for name in names if name not in self._tensors), None)
        if lacking is not None:
            raise DataError(f"{self.place}: no tensor {lacking} among its {len(self._tensors)}")
        wanted = [self._tensors[name] for name in names]
        with _faults(self.place):
            parts = self._bytes([(self._begin + begin, self._begin + end) for begin, end in (w.range for w in wanted)])
        return {name: _tensor(stored, part) for name, stored, part in zip(names, wanted, parts, strict=True)}

    def starts(self, count: int) -> dict[str, Tensor]:
        """The first `count` values (count,) of every tensor, fewer where it has fewer.

        Raises:
            DataError: the file ends before a tensor does.
        """
        cut = {name: _start(stored, count) for name, stored in self._tensors.items()}
        with _faults(self.place):
            parts = self._bytes(
                [(self._begin + a, self._begin + b) for a, b in (stored.range for stored in cut.values())]
            )
        return {name: _tensor(stored, part) for (name, stored), part in zip(cut.items(), parts, strict=True)}

    def _bytes(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | bytearray]:
        """The bytes of ranges; what the first read brought is not read again."""
        far = [one for one in ranges if one[1] > len(self._first)]
        read = iter(self._read(far) if far else ())
        return [self._first[a:b] if b <= len(self._first) else next(read) for a, b in ranges]


class _Stored(NamedTuple):
    """An entry of a header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    range: tuple[int, int]
    """begin and end in bytes, counted from the end of the header"""


def _start(stored: _Stored, count: int) -> _Stored:
    count = min(count, math.prod(stored.shape))
    begin = stored.range[0]
    return _Stored(stored.dtype, (count,), (begin, begin + count * stored.dtype.itemsize))


def _parse(name: str, entry: Any) -> _Stored:
    try:
        dtype, shape, (begin, end) = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        fits = whole and end - begin == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"the header's entry of {name} is wrong: {str(entry)[:200]}")
    return _Stored(dtype, shape, (begin, end))


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("the header's metadata are no strings")


def _check_ranges(ranges: Iterable[tuple[int, int]], size: int) -> None:
    """ValueError where tensors overlap, or leave any of `size` bytes out."""
    reached = 0
    for begin, end in sorted(ranges):
        if begin != reached:
            raise ValueError(f"its header has a hole or an overlap at byte {min(begin, reached)} of the tensors")
        reached = end
    if reached != size:
        raise ValueError(f"{size} bytes of tensors, where its header announces {reached}")


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


def _store_reader(place: StorePath) -> Reader:
    """Reads ranges of an object all at once, those that touch as one."""

    def read(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        joined: list[tuple[int, int]] = []
        for begin, end in sorted(ranges):
            if joined and joined[-1][1] == begin:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((begin, end))
        found = list(zip(joined, place.read_ranges(joined), strict=True))
        return [
            next(data[begin - a : end - a] for (a, b), data in found if a <= begin and end <= b)
            for begin, end in ranges
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
    if isinstance(place, StorePath):
        with _faults(place, missing):
            size = place.size()
        yield TensorFile(place, size, _store_reader(place))
    else:
        with _faults(place, missing):
            file = place.open("rb")
        with file:
            yield TensorFile(place, os.fstat(file.fileno()).st_size, _disk_reader(file))
