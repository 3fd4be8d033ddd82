from dataclasses import replace
from pathlib import Path

import pytest

from lofa.backbones import Backbone
from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.files import temporaries
from lofa.zoo import ZooOptions, build_zoo
from lofa.zoo.store import claimed
from tests.zoo.sets import write_set

OPTIONS = ZooOptions(rank=2, steps=2, batch=2, clips_per_step=1, probe_levels=2)


def build(folder: Path, backbone: Backbone, shard: str) -> int:
    return build_zoo(folder, backbone, replace(OPTIONS, shard=shard), progress=False).trained


def test_a_shard_is_built_by_one_process_at_a_time(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    store = ZooStore(folder)
    with claimed(store, "1-of-2"):
        assert store.living() == ["1-of-2"] and store.living("1-of-2") == []
        with pytest.raises(DataError, match="another process is building shard 1-of-2"):
            build(folder, backbone, "1/2")
        with pytest.raises(DataError, match="shard 1-of-2 is being built.*in common with shard 1-of-1"):
            build(folder, backbone, "1/1")
        assert build(folder, backbone, "2/2") == 2
    assert store.living() == []
    assert build(folder, backbone, "1/2") == 2


def test_what_a_killed_run_left_goes_and_what_a_living_shard_writes_stays(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    store = ZooStore(folder)
    store.folder.mkdir()
    left = {
        name: store.folder / f".{name}.0123abcd.tmp{Path(name).suffix}"
        for name in ("g0-0.safetensors", "g1-0.safetensors", "plan-1-of-2.json", "plan-2-of-2.json")
    }
    for path in left.values():
        path.write_bytes(b"half")
    assert temporaries(store.folder) == {path: name for name, path in left.items()}
    with claimed(store, "2-of-2"):
        build(folder, backbone, "1/2")
        assert set(temporaries(store.folder)) == {left["g1-0.safetensors"], left["plan-2-of-2.json"]}
    build(folder, backbone, "1/2")
    assert not temporaries(store.folder)
