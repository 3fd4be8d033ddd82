import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.files import digest, read_metadata, read_tensors
from lofa.zoo import ZooOptions, build_zoo
from tests.helpers.tiny_wan import make_tiny_wan
from tests.zoo.sets import digests, write_set

OPTIONS = ZooOptions(rank=2, steps=2, batch=3, clips_per_step=1, probe_levels=2)


def build(folder: Path, backbone: Backbone, **changes: object) -> list[int]:
    report = build_zoo(folder, backbone, replace(OPTIONS, **changes), progress=False)
    return [report.trained, report.present, len(report.quarantined)]


def test_writes_loras_that_explain_themselves(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    assert build(folder, backbone) == [4, 0, 0]
    store = ZooStore(folder)
    assert store.ready() == ["g0-0", "g1-0", "g2-0", "g3-0"]
    for name, entry in store.entries().items():
        metadata = read_metadata(store.path(name))
        assert metadata["backbone_fingerprint"] == backbone.fingerprint
        assert metadata["clips"] == str([f"{name[:2]}-{i}" for i in range(3)]).replace("'", '"')
        assert {"rank", "alpha", "steps", "seed", "format_version", "caption"} <= metadata.keys()
        assert float(metadata["first_loss"]) == entry.first_loss and float(metadata["final_loss"]) == entry.final_loss
        assert entry.digest == digest(store.path(name))
        adapter = Adapter.load(store.path(name))
        assert set(adapter) == {layer.name for layer in backbone.layers}
        assert all(torch.isfinite(adapter.delta_weight(layer)).all() for layer in adapter)


def test_a_zoo_has_the_loras_of_the_version_before(tmp_path: Path) -> None:
    """tests/old holds a set and its zoo as LoFA 0.1.0 made them: same draws, same start, same steps.

    Another CPU rounds in another way, which AdamW enlarges where a gradient is next to nothing.
    """
    old = Path(__file__).parents[1] / "old" / "data" / "old"
    folder = shutil.copytree(old, tmp_path / "set", ignore=shutil.ignore_patterns("zoo"))
    options = ZooOptions(rank=2, steps=4, warmup=1, batch=4, clips_per_step=1)
    assert build_zoo(folder, load_backbone("tiny-wan"), options, progress=False).trained == 3
    for file in sorted((old / "zoo").glob("*.safetensors")):
        one, other = read_tensors(file), read_tensors(folder / "zoo" / file.name)
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-3 * float(tensor.abs().max()))


def test_goes_on_where_it_was_left_and_in_shards(tmp_path: Path, backbone: Backbone) -> None:
    whole, parts = write_set(tmp_path / "whole", backbone), write_set(tmp_path / "parts", backbone)
    build(whole, backbone)
    before = digests(whole)
    assert build(whole, backbone) == [0, 4, 0]
    (whole / "zoo" / "g1-0.safetensors").unlink()
    assert build(whole, backbone) == [1, 3, 0]
    assert build(parts, backbone, shard="1/2") == [2, 0, 0]
    assert build(parts, backbone, shard="2/2") == [2, 0, 0]
    assert build(parts, backbone) == [0, 4, 0]
    assert before.keys() == digests(whole).keys() == digests(parts).keys()
    for name in before:
        one, other = Adapter.load(whole / "zoo" / name), Adapter.load(parts / "zoo" / name)
        for layer in one:
            torch.testing.assert_close(one.delta_weight(layer), other.delta_weight(layer), rtol=1e-3, atol=1e-6)


def test_a_zoo_of_other_options_or_another_backbone_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path / "set", backbone)
    build(folder, backbone)
    before = digests(folder)
    with pytest.raises(DataError, match=r"rank=2 \(now 3\), lr=0.002 \(now 0.1\)"):
        build(folder, backbone, rank=3, lr=0.1)
    other = load_backbone(make_tiny_wan(tmp_path / "other", seed=1))
    write_set(tmp_path / "set", other)  # the set prepared again: its samples are the other's, its zoo is not
    with pytest.raises(DataError, match=rf"begun with backbone .*{backbone.fingerprint}.*{other.fingerprint}"):
        build(folder, other)
    assert digests(folder) == before


def test_samples_of_another_backbone_are_refused_before_anything_is_written(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path / "set", backbone)
    other = load_backbone(make_tiny_wan(tmp_path / "other", seed=1))
    with pytest.raises(DataError, match=r"g0-0.safetensors: made for backbone"):
        build(folder, other)
    assert not (folder / "zoo").exists()


def test_a_lora_that_fails_twice_goes_into_quarantine(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone, huge="g1-0")
    assert build(folder, backbone, siblings=1) == [3, 0, 1]
    store = ZooStore(folder)
    entry = store.entries()["g1-0"]
    assert entry.status == "quarantined" and entry.reason.count("not finite") == 2
    assert "lr=0.002" in entry.reason and "lr=0.0006" in entry.reason
    assert not store.path("g1-0").exists() and "g1-0" not in store.ready()
    lines = store.index("1-of-1").read_text()
    assert build(folder, backbone, siblings=1) == [0, 3, 1]
    assert store.index("1-of-1").read_text() == lines
    before = digests(folder)
    write_set(tmp_path, backbone)  # the sample is mended
    assert build(folder, backbone, siblings=1) == [0, 3, 1]
    report = build_zoo(folder, backbone, replace(OPTIONS, siblings=1), progress=False, retry=True)
    assert [report.trained, report.present, report.quarantined] == [1, 3, ()]
    assert digests(folder).items() > before.items()


def test_a_lora_that_learns_nothing_is_trained_more_slowly_once(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    build(folder, backbone, lr=0.3, warmup=0, steps=3)
    entries, store = ZooStore(folder).entries(), ZooStore(folder)
    attempts = {name: entry.reason.count("nothing was learned") for name, entry in entries.items()}
    assert set(attempts.values()) == {0, 1, 2}, "the example should have LoRAs of every kind"
    for name, entry in entries.items():
        assert entry.status == ("quarantined" if attempts[name] == 2 else "ok")
        assert (entry.final_loss < entry.first_loss) == store.path(name).exists() == (entry.status == "ok")
        if entry.status == "ok":
            assert float(read_metadata(store.path(name)).get("lr", 0.3)) == pytest.approx(0.3 ** (1 + attempts[name]))
    with pytest.raises(DataError, match=r"begun with.* lr=0.3 \(now 0.002\)"):
        build(folder, backbone)


def test_a_set_that_is_not_there(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(DataError, match="no prepared data set"):
        build(tmp_path / "nothing", backbone)


def test_held_out_siblings_choose_the_step(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    build(folder, backbone, held_out=1, validate_every=1, patience=1, steps=3)
    metadata = read_metadata(ZooStore(folder).path("g0-0"))
    assert metadata["clips"] == '["g0-0", "g0-1"]' and "held_final_loss" in metadata
