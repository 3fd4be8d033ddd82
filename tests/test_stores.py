"""Stores: what files give on a disk they give in an object store and on a web server."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from lofa.errors import DataError
from lofa.files import (
    append_jsonl,
    atomic_write,
    digest,
    local_copy,
    read_json,
    read_jsonl,
    read_metadata,
    read_tensors,
    save_tensors,
    tensor_shapes,
    write_json,
)
from lofa.paths import Place, locate
from lofa.ranges import open_tensors
from tests.helpers.web import Web, serve


@pytest.fixture
def store() -> Place:
    """An empty folder of a store in memory."""
    return locate(f"memory://{uuid4().hex}")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Serves tmp_path."""
    with serve(tmp_path) as server:
        yield server


def test_a_place_is_told_by_a_path_or_a_url(tmp_path: Path) -> None:
    assert locate("data/world") == Path("data/world") and locate(tmp_path) is tmp_path
    assert locate(f"file://{tmp_path}/set") == tmp_path / "set"
    place = locate("s3://bucket/sets/world/")
    assert str(place) == "s3://bucket/sets/world" and locate(place) is place
    assert str(place / "zoo" / "a.safetensors") == "s3://bucket/sets/world/zoo/a.safetensors"
    assert (place.name, str(place.parent)) == ("world", "s3://bucket/sets")
    root = locate("memory://world").parent
    assert str(root) == "memory://" and str(root / "world") == "memory://world"
    with pytest.raises(DataError, match="s4://bucket.*Unsupported filesystem: 's4'"):
        locate("s4://bucket")


def test_what_is_written_is_read_again(store: Place) -> None:
    write_json(store / "a" / "set.json", {"caption": "ü"})
    assert read_json(store / "a" / "set.json") == {"caption": "ü"}
    for n in range(3):
        append_jsonl(store / "a" / "index-1-of-2.jsonl", {"n": n})
    assert list(read_jsonl(store / "a" / "index-1-of-2.jsonl")) == [{"n": 0}, {"n": 1}, {"n": 2}]
    tensors = {f"layer {n}": torch.full((300, 200), float(n)) for n in range(9)}
    file = store / "a" / "x.safetensors"
    save_tensors(file, tensors, {"caption": "x"})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_tensors(file).items())
    chosen = read_tensors(file, ["layer 7", "layer 2", "layer 3"])
    assert list(chosen) == ["layer 7", "layer 2", "layer 3"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in chosen.items())
    assert read_metadata(file) == {"caption": "x"} and set(tensor_shapes(file).values()) == {(300, 200)}
    with local_copy(file) as copy:
        assert torch.equal(read_tensors(copy)["layer 5"], tensors["layer 5"]) and copy.name == "x.safetensors"
    assert not copy.exists()
    assert (store / "a").is_dir() and file.is_file() and not store.is_file()
    assert sorted(map(str, store.glob("a/*.json*"))) == [f"{store}/a/index-1-of-2.jsonl", f"{store}/a/set.json"]


def test_a_store_and_a_disk_hold_the_same_bytes(store: Place, tmp_path: Path) -> None:
    for folder in (store, tmp_path):
        save_tensors(folder / "x.safetensors", {"a": torch.ones(3)}, {"b": "c"})
        append_jsonl(folder / "y.jsonl", {"n": 1})
        append_jsonl(folder / "y.jsonl", {"n": 2})
    for name in ("x.safetensors", "y.jsonl"):
        with local_copy(store / name) as copy:
            assert digest(copy) == digest(tmp_path / name)


def test_an_object_is_put_whole_or_stays_as_it_was(store: Place) -> None:
    write_json(store / "set.json", 1)
    with pytest.raises(RuntimeError, match="power cut"), atomic_write(store / "set.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert read_json(store / "set.json") == 1 and not temporary.exists()


def test_what_is_missing_or_damaged_is_named(store: Place) -> None:
    for read in (read_json, read_tensors, lambda path: list(read_jsonl(path))):
        with pytest.raises(DataError, match=r"memory://.*/nothing: no such file"):
            read(store / "nothing")
    with pytest.raises(DataError, match="no such file"), local_copy(store / "nothing"):
        pass
    save_tensors(store / "x", {"a": torch.ones(3)})
    with local_copy(store / "x") as copy:
        cut = copy.read_bytes()[:-4]
    with atomic_write(store / "x") as temporary:
        temporary.write_bytes(cut)
    with pytest.raises(DataError, match="memory://.*not a whole safetensors file"):
        read_tensors(store / "x")


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="the driver is there")
def test_a_store_without_its_driver_says_what_to_install() -> None:
    with pytest.raises(DataError, match="s3://bucket/x: .*[Ii]nstall s3fs"):
        read_tensors("s3://bucket/x")


def test_a_web_server_sends_what_was_asked_for(web: Web, tmp_path: Path) -> None:
    tensors = {f"layer {n:02d}.{part}": torch.full((50_000,), float(n)) for n in range(20) for part in "AB"}
    save_tensors(tmp_path / "x.safetensors", tensors)
    chosen = read_tensors(f"{web.url}/x.safetensors", ["layer 07.A", "layer 07.B", "layer 13.A"])
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in chosen.items())
    assert web.sent == (1 << 17) + 3 * 200_000 and web.requests == 3  # the header and two stretches
    web.ranges = False
    assert torch.equal(read_tensors(f"{web.url}/x.safetensors", ["layer 07.A"])["layer 07.A"], tensors["layer 07.A"])


def test_a_web_server_is_read_only(web: Web, tmp_path: Path) -> None:
    write_json(tmp_path / "set.json", 1)
    assert read_json(f"{web.url}/set.json") == 1
    with pytest.raises(DataError, match="a web server can only be read"):
        write_json(f"{web.url}/set.json", 2)
    with pytest.raises(DataError, match="no such file"):
        read_json(f"{web.url}/none.json")
    assert read_json(tmp_path / "set.json") == 1


def test_a_server_that_is_gone_is_a_data_error(web: Web) -> None:
    gone = web.url
    web.shutdown()
    web.server_close()
    with pytest.raises(DataError, match="http://127.0.0.1"):
        read_json(f"{gone}/set.json")


def test_an_object_that_is_cut_while_it_is_open_gives_no_zeros(store: Place) -> None:
    save_tensors(store / "x", {"a": torch.ones(100_000), "b": torch.ones(100_000)})
    with local_copy(store / "x") as copy:
        whole = copy.read_bytes()
    with open_tensors(store / "x") as file:
        with atomic_write(store / "x") as temporary:
            temporary.write_bytes(whole[:500_000])
        with pytest.raises(DataError, match=r"memory://.*not a whole safetensors file.*ends before"):
            file.read(["b"])
