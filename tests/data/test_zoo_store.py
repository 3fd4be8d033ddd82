"""The zoo on disk: slices are right, and every spoilt file is named."""

from pathlib import Path
from shutil import copytree
from uuid import uuid4

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.data import ZooEntry, ZooStore
from lofa.errors import DataError
from lofa.files import read_metadata, read_tensors, save_tensors
from tests.data.conftest import random_adapter


@pytest.fixture
def store(zoo_set: Path, tmp_path: Path) -> ZooStore:
    return ZooStore(copytree(zoo_set, tmp_path / "set"))


def test_slices_are_the_layers_of_the_whole(store: ZooStore, backbone: Backbone) -> None:
    names, ids = [layer.name for layer in backbone.layers], store.ready()[:3]
    for stack in store.stacks(ids, [[names[5], names[3]], [names[2]]], backbone):
        assert stack.layers in ((names[5], names[3]), (names[2],))
        assert stack.A.shape[:2] == stack.B.shape[:2] == stack.alpha.shape == (3, len(stack.layers))
        for p, name in enumerate(ids):
            whole = Adapter.load(store.path(name))
            for i, layer in enumerate(stack.layers):
                delta = stack.alpha[p, i] * stack.B[p, i] @ stack.A[p, i]
                torch.testing.assert_close(delta, whole.delta_weight(layer))


def test_smaller_ranks_are_padded_without_changing_the_delta(store: ZooStore, backbone: Backbone) -> None:
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    wide = random_adapter(backbone, 9, rank=5)
    store.add(wide, ZooEntry("wide", "ok"), "2-of-2", header)
    layer = backbone.layers[0].name
    (stack,) = store.stacks([store.ready()[0], "wide"], [[layer]], backbone)
    assert stack.A.shape[2] == 5
    torch.testing.assert_close(stack.alpha[1, 0] * stack.B[1, 0] @ stack.A[1, 0], wide.delta_weight(layer))


def test_indices_are_merged_and_the_last_word_counts(tmp_path: Path, backbone: Backbone) -> None:
    store = ZooStore(tmp_path)
    assert store.entries() == {} and store.ready() == []
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    store.note(ZooEntry("a", "quarantined", reason="loss became NaN"), "1-of-2")
    store.add(random_adapter(backbone, 0), ZooEntry("b", "ok", 0.2, 0.1), "2-of-2", header)
    assert store.ready() == ["b"] and store.entries()["a"].reason == "loss became NaN"
    store.add(random_adapter(backbone, 1), ZooEntry("a", "ok", 0.2, 0.1), "1-of-2", header)
    with (tmp_path / "zoo" / "index-2-of-2.jsonl").open("a") as file:
        file.write('{"id": "c", "sta')  # a crash in the middle of a line
    assert store.ready() == ["a", "b"] and len(store.entries()["a"].digest) == 64
    store.path("b").unlink()
    assert store.ready() == ["a"]


def test_a_zoo_in_a_store_is_the_zoo_on_a_disk(tmp_path: Path, backbone: Backbone) -> None:
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    names = [layer.name for layer in backbone.layers]
    disk, store = ZooStore(tmp_path), ZooStore(f"memory://{uuid4().hex}")
    for zoo in (disk, store):
        assert zoo.ready() == []
        zoo.add(random_adapter(backbone, 0), ZooEntry("a", "ok", 0.2, 0.1), "2-of-2", header)
        zoo.note(ZooEntry("b", "failed", reason="loss became NaN"), "1-of-2")
        zoo.add(random_adapter(backbone, 1), ZooEntry("b", "ok"), "1-of-2", header, dtype=torch.bfloat16)
    assert store.entries() == disk.entries() and store.ready() == disk.ready() == ["b", "a"]
    near, far = (zoo.stacks(["a", "b"], [[names[4], names[1]]], backbone)[0] for zoo in (disk, store))
    assert torch.equal(near.A, far.A) and torch.equal(near.B, far.B)
    with pytest.raises(
        DataError, match=r"memory://.*/zoo/c\.safetensors: no such LoRA; make it with: lofa zoo data=mem"
    ):
        store.read("c", names, backbone)


def test_spoilt_files_are_named(store: ZooStore, backbone: Backbone) -> None:
    layers = [layer.name for layer in backbone.layers]
    first, second, third, fourth = store.ready()[:4]

    def fails(name: str, words: str) -> None:
        with pytest.raises(DataError, match=words) as caught:
            store.stacks([fourth, name], [layers], backbone)
        assert str(store.path(name)) in str(caught.value)

    whole = store.path(first).read_bytes()
    store.path(first).write_bytes(whole[: len(whole) - 100])
    fails(first, "not a whole safetensors file")
    tensors, metadata = read_tensors(store.path(second)), read_metadata(store.path(second))
    tensors[f"{layers[1]}.lora_A.weight"][0, 0] = float("nan")
    save_tensors(store.path(second), tensors, metadata)
    fails(second, f"{layers[1]} holds NaN or infinity.*lofa zoo")
    del tensors[f"{layers[1]}.lora_A.weight"], tensors[f"{layers[1]}.lora_B.weight"]
    save_tensors(store.path(second), tensors, metadata)
    fails(second, f"no LoRA for 1 of.*{layers[1]}")
    save_tensors(store.path(third), read_tensors(store.path(third)), {**metadata, "backbone_fingerprint": "other"})
    fails(third, f"made for backbone.*other.*{backbone.fingerprint}")
    store.path(third).unlink()
    fails(third, "no such LoRA")
