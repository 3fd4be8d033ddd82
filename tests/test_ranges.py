"""safetensors by ranges: what safetensors' own reader gives, no byte more than asked for, and nothing forged."""

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lofa.errors import DataError
from lofa.files import read_metadata, read_tensors, tensor_shapes
from lofa.ranges import TensorFile, open_tensors

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64,
]  # fmt: skip


def some_tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    tensors = {str(dtype): (10 * torch.randn(3, 5, generator=draw)).to(dtype) for dtype in DTYPES}
    return {**tensors, "empty": torch.empty(0, 4), "one": torch.tensor(2.5), "late": torch.arange(7)}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def with_header(header: object, body: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_every_type_and_shape_as_safetensors_gives_it(tmp_path: Path) -> None:
    data = save(some_tensors(), {"caption": "ü, \n"})
    path, expected = written(tmp_path / "x.safetensors", data), load(data)
    got = read_tensors(path)
    assert got.keys() == expected.keys() and list(got) == sorted(got)
    for name, tensor in got.items():
        assert tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape
        assert torch.equal(tensor.contiguous().view(-1).view(torch.uint8), expected[name].view(-1).view(torch.uint8))
        tensor.zero_()  # its memory is its own, and may be written
    assert read_metadata(path) == {"caption": "ü, \n"}
    assert tensor_shapes(path) == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert list(read_tensors(path, ["one", "late"])) == ["one", "late"]
    assert torch.equal(read_tensors(path)["late"], torch.arange(7))


def test_no_byte_is_read_that_was_not_asked_for(tmp_path: Path) -> None:
    data = save({f"layer {n:02d}": torch.full((50_000,), float(n)) for n in range(20)})
    asked: list[tuple[int, int]] = []

    def read(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        asked.extend(ranges)
        return [data[begin:end] for begin, end in ranges]

    file = TensorFile(tmp_path, len(data), read)
    first = sum(end - begin for begin, end in asked)
    assert file.read(["layer 07", "layer 13"])["layer 13"].eq(13).all()
    assert sum(end - begin for begin, end in asked) == first + 2 * 200_000 and first < len(data) / 20
    small = save({"a": torch.ones(4), "b": torch.ones(2)})
    data, asked[:] = small, []
    assert TensorFile(tmp_path, len(small), read).read().keys() == {"a", "b"} and asked == [(0, len(small))]


def test_a_header_longer_than_the_first_reading(tmp_path: Path) -> None:
    tensors = {f"{'long name ' * 10}{n}": torch.tensor([n]) for n in range(2000)}
    path = written(tmp_path / "x.safetensors", save(tensors))
    got = read_tensors(path)
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    data = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.float16)})
    for length in range(len(data)):
        with pytest.raises(DataError, match=r"x\.safetensors: not a whole safetensors file.*make it again"):
            read_tensors(written(tmp_path / "x.safetensors", data[:length]))
    with pytest.raises(DataError, match="bytes of tensors"):
        read_tensors(written(tmp_path / "x.safetensors", data + b"more"))


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
FORGED = {
    "no json": b"{]",
    "no text": b"\xff\xfe{}",
    "no object": [ENTRY],
    "nested": b"[" * 100_000,
    "beyond the end": {"a": {**ENTRY, "shape": [4], "data_offsets": [0, 16]}},
    "before the beginning": {"a": {**ENTRY, "data_offsets": [-8, 0]}},
    "backwards": {"a": {**ENTRY, "data_offsets": [8, 0]}},
    "a hole": {"a": {**ENTRY, "shape": [1], "data_offsets": [4, 8]}},
    "an overlap": {"a": ENTRY, "b": ENTRY},
    "an overlap as large as a hole": {name: {**ENTRY, "shape": [1], "data_offsets": [0, 4]} for name in "ab"},
    "bytes left over": {"a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]}},
    "shape and bytes differ": {"a": {**ENTRY, "shape": [3]}},
    "negative sides": {"a": {**ENTRY, "shape": [-1, -2]}},
    "fractions": {"a": {**ENTRY, "shape": [2.0]}},
    "truth as number": {"a": {**ENTRY, "shape": [True, 2]}},
    "unknown type": {"a": {**ENTRY, "dtype": "F31"}},
    "type of a list": {"a": {**ENTRY, "dtype": ["F32"]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "three offsets": {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
    "no entry": {"a": 8},
    "numbers as metadata": {"__metadata__": {"rank": 4}, "a": ENTRY},
    "a list as metadata": {"__metadata__": ["rank"], "a": ENTRY},
}


@pytest.mark.parametrize("header", FORGED.values(), ids=FORGED)
def test_a_forged_header_is_refused(header: object, tmp_path: Path) -> None:
    data = with_header(header)
    with pytest.raises(SafetensorError):
        load(data)
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_tensors(written(tmp_path / "x.safetensors", data))


def test_a_header_of_any_length_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for length in (2**64 - 1, 2**40, 9):
        with pytest.raises(DataError, match="no header, or cut off"):
            read_tensors(written(tmp_path / "x.safetensors", length.to_bytes(8, "little") + bytes(8)))


def test_damage_gives_tensors_or_a_data_error_and_nothing_else(tmp_path: Path) -> None:
    whole, draw = save({"a": torch.ones(3), "b": torch.ones(2, 2)}, {"caption": "x"}), random.Random(0)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            read_tensors(written(tmp_path / "x.safetensors", bytes(data)))
        except DataError:
            refused += 1
    assert 100 < refused < 500


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", save({"a": torch.ones(3)}))
    with pytest.raises(DataError, match=r"x\.safetensors: no tensor b among its 1"):
        read_tensors(path, ["a", "b"])
    with pytest.raises(DataError, match=r"y\.safetensors: no such file"):
        read_tensors(tmp_path / "y.safetensors")
    with (
        pytest.raises(DataError, match=r"y\.safetensors: gone; make it"),
        open_tensors(tmp_path / "y.safetensors", "gone; make it"),
    ):
        pass
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_tensors(tmp_path)


def test_a_file_that_is_cut_while_it_is_open_gives_no_zeros(tmp_path: Path) -> None:
    path = written(tmp_path / "x.safetensors", save({"a": torch.ones(100_000), "b": torch.ones(100_000)}))
    with open_tensors(path) as file:
        os.truncate(path, 500_000)
        assert file.read(["a"])["a"].eq(1).all()
        with pytest.raises(DataError, match=r"x\.safetensors: not a whole safetensors file.*ends before"):
            file.read(["b"])


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def read(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        asked.extend(ranges)
        return [(150_000_000).to_bytes(8, "little") + bytes(end - begin - 8) for begin, end in ranges]

    with pytest.raises(DataError, match="no header, or cut off"):
        TensorFile(tmp_path, 200_000_000, read)
    assert asked == [(0, 1 << 17)]
