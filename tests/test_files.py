"""Files: the same content gives the same bytes, whole or not at all, and nothing is lost that a write did not make."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lofa.errors import DataError, TargetError, WriteError
from lofa.files import (
    append_jsonl,
    atomic_write,
    read_json,
    read_jsonl,
    read_metadata,
    read_tensors,
    remove_temporaries,
    save_tensors,
    save_torch,
    temporaries,
    write_json,
)
from lofa.targets import Kind

NOTES = Kind("a folder of notes", lambda path: (path / "notes").is_file())


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"layer.{n}": torch.full((2, 3), float(n)) for n in range(5)}
    metadata = {f"key {n}": f'"quoted", tab\t, line\n, ü, \x01 {n}' for n in range(9)}
    written = []
    for turn in range(12):  # safetensors alone would have to draw one of 9! orders twelve times alike
        order = dict(sorted(metadata.items(), key=lambda item: hash((turn, item))))
        save_tensors(tmp_path / f"{turn}.safetensors", tensors, order)
        written.append((tmp_path / f"{turn}.safetensors").read_bytes())
    assert len(set(written)) == 1
    assert read_metadata(tmp_path / "0.safetensors") == metadata
    assert all(torch.equal(value, tensors[name]) for name, value in read_tensors(tmp_path / "0.safetensors").items())


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is flushed and renamed, in order: (fsync or rename, number of the file on its disk)."""
    seen: list[tuple[str, int]] = []
    flush = os.fsync

    def fsync(handle: int) -> None:
        seen.append(("fsync", os.fstat(handle).st_ino))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for name, real in (("rename", os.rename), ("replace", os.replace)):

        def move(old: Path, new: Path, real: Callable[..., None] = real) -> None:
            seen.append(("rename", os.stat(old).st_ino))
            real(old, new)

        monkeypatch.setattr(os, name, move)
    return seen


def test_a_file_is_flushed_then_renamed(tmp_path: Path, trace: list[tuple[str, int]]) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert trace == [("fsync", path.stat().st_ino), ("rename", path.stat().st_ino)]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_the_files_of_a_folder_are_flushed_before_it_is_renamed(tmp_path: Path, trace: list[tuple[str, int]]) -> None:
    with atomic_write(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "one").write_text("1")
        (temporary / "deep" / "two").write_text("2")
    files = {("fsync", (tmp_path / "folder" / name).stat().st_ino) for name in ("one", "deep/two")}
    assert set(trace[:2]) == files and trace[2:] == [("rename", (tmp_path / "folder").stat().st_ino)]


def test_a_line_is_flushed(tmp_path: Path, trace: list[tuple[str, int]]) -> None:
    append_jsonl(tmp_path / "x.jsonl", {"n": 1})
    assert trace == [("fsync", (tmp_path / "x.jsonl").stat().st_ino)]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_a_write_that_fails_leaves_what_was_there(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "x") as temporary:
        make(temporary)
        raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / "x"] and (tmp_path / "x").read_text() == "old"


def test_a_folder_stays_unless_its_kind_is_known(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("years of work")
    for kind in ((), (NOTES,)):
        for make in (Path.touch, Path.mkdir):
            refused = pytest.raises(TargetError, match=r"mine: a folder \(letter\) stands there")
            with refused, atomic_write(mine, *kind) as temporary:
                make(temporary)
    assert list(tmp_path.iterdir()) == [mine] and (mine / "letter").read_text() == "years of work"
    (mine / "letter").rename(mine / "notes")
    with atomic_write(mine, NOTES) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert list(tmp_path.rglob("*")) == [mine, mine / "new"]


def test_what_comes_while_a_folder_is_written_stays(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="letter"), atomic_write(tmp_path / "x", NOTES) as temporary:
        temporary.mkdir()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "letter").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "x", tmp_path / "x" / "letter"]


def test_a_folder_is_whole_at_every_moment_of_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes").write_text("old")
    rename, calls = os.rename, []

    def failing(old: Path, new: Path) -> None:
        calls.append(new)
        if len(calls) == 2:
            assert [path.read_text() for path in tmp_path.glob(".x.*.old/notes")] == ["old"]
            raise OSError(errno.EIO, "I/O error", str(old), None, str(new))
        rename(old, new)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(WriteError, match=r"x: not written"), atomic_write(tmp_path / "x", NOTES) as temporary:
        temporary.mkdir()
        (temporary / "notes").write_text("new")
    assert (tmp_path / "x" / "notes").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_the_temporaries_of_killed_writes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.0123abcd.tmp.json").touch()
    (tmp_path / ".b.0123abcd.tmp").mkdir()
    (tmp_path / ".b.0123abcd.tmp" / "half").touch()
    (tmp_path / ".mine.tmp").touch()
    assert sorted(temporaries(tmp_path).values()) == ["a.json", "b"]
    remove_temporaries(tmp_path, lambda: False, {"a.json"})
    assert list(temporaries(tmp_path).values()) == ["b"]
    remove_temporaries(tmp_path, lambda: True)
    assert list(tmp_path.iterdir()) == [tmp_path / ".mine.tmp"]


FULL = OSError(errno.ENOSPC, "No space left on device")  # as a write to an open file has it: no name


@pytest.mark.parametrize(
    ("fault", "reason", "no_space"),
    [
        (FULL, "No space left", True),
        (OSError(errno.EDQUOT, "x"), "quota", True),
        (OSError(errno.EROFS, "x"), "Read-only", False),
        (SafetensorError("Error while serializing: I/O error: x (os error 28)"), "No space left", True),
    ],
)
def test_what_the_disk_refuses_names_the_goal(fault: Exception, reason: str, no_space: bool, tmp_path: Path) -> None:
    refused = pytest.raises(WriteError, match=rf"{tmp_path}/out/sub/x: not written, .*{reason}")
    with refused as caught, atomic_write(tmp_path / "out") as outer:
        outer.mkdir()
        with atomic_write(outer / "sub" / "x"):
            raise fault
    assert caught.value.no_space is no_space and list(tmp_path.iterdir()) == []


def test_an_error_of_something_else_goes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_write(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    with pytest.raises(ConnectionRefusedError), atomic_write(tmp_path / "x"):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_a_line_that_the_disk_refuses_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int) -> None:
        raise OSError(errno.ENOSPC, "x")

    append_jsonl(tmp_path / "x.jsonl", {"n": 1})
    with monkeypatch.context() as patch, pytest.raises(WriteError, match=r"x\.jsonl: not written, No space left"):
        patch.setattr(os, "fsync", refuse)
        append_jsonl(tmp_path / "x.jsonl", {"n": 2})
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"n": 1}]


def test_a_full_disk_for_real(tmp_path: Path, full_disk: Path) -> None:
    save_tensors(full_disk / "small.safetensors", {"a": torch.ones(2)})
    values = torch.ones(100_000)
    with pytest.raises(WriteError, match=r"x\.safetensors: not written, No space left"):
        save_tensors(full_disk / "x.safetensors", {"a": values})
    with pytest.raises(WriteError, match=r"x\.pth: not written, No space left"):
        save_torch(full_disk / "x.pth", {"a": values})
    with pytest.raises(WriteError, match=r"x\.json: not written, No space left"):
        write_json(full_disk / "x.json", values.tolist())
    append_jsonl(full_disk / "x.jsonl", {"n": 1})
    with pytest.raises(WriteError, match=r"x\.jsonl: not written, No space left"):
        append_jsonl(full_disk / "x.jsonl", values.tolist())
    assert list(read_jsonl(full_disk / "x.jsonl")) == [{"n": 1}]
    append_jsonl(full_disk / "x.jsonl", {"n": 2})
    assert list(read_jsonl(full_disk / "x.jsonl")) == [{"n": 1}, {"n": 2}]
    assert {path.name for path in full_disk.iterdir()} == {"small.safetensors", "x.jsonl"}


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.jsonl", [{"caption": "a\u2028b\x85c\x0bd"}, {"n": 2}]
    path.write_bytes('{"caption":\r "a\u2028b\x85c\\u000bd"}\r\n\n{"n": 2}'.encode())
    assert list(read_jsonl(path)) == list(read_jsonl(path, torn=True)) == rows


@pytest.mark.parametrize("damage", [b'{"n": 2', b"\xff", b"[" * 100_000, b"\0\0\0"])
def test_a_damaged_line_is_named_and_only_a_torn_last_one_passed_over(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damage)
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: damaged, no json.*mend it or delete"):
        list(read_jsonl(path))
    assert list(read_jsonl(path, torn=True)) == [{"n": 1}]
    path.write_bytes(b'{"n": 1}\n' + damage + b'\n{"n": 3}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: damaged"):
        list(read_jsonl(path, torn=True))


@pytest.mark.parametrize("line", ['{"n": 2}', '{"n": "' + 10_000 * "long" + '"}'])
def test_a_torn_last_line_is_cut_off_by_the_next(line: str, tmp_path: Path) -> None:
    path, first = tmp_path / "x.jsonl", b'{"n": 1}\n'
    for length in {0, 1, len(line) // 2, len(line) - 1}:
        path.write_bytes(first + line[:length].encode())
        append_jsonl(path, {"n": 3})
        assert path.read_bytes() == first + b'{"n": 3}\n'
        path.write_bytes(line[:length].encode())
        append_jsonl(path, {"n": 3})
        assert path.read_bytes() == b'{"n": 3}\n'
    path.write_text(line)  # whole, its end alone is lacking: an editor may have left it out
    append_jsonl(path, {"n": 3})
    assert path.read_text() == f'{line}\n{{"n": 3}}\n'


def test_json_nested_without_end_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"x\.json: not a json file"):
        read_json(tmp_path / "x.json")
