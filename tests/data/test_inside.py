"""A set's names and links lead nowhere else, and a killed preparation leaves nothing for good."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from lofa.backbones import Backbone
from lofa.data import ZooEntry, ZooStore, encoded_path, prepare, read_samples
from lofa.errors import DataError, WriteError
from lofa.files import temporaries
from lofa.processes import locked
from tests.data.conftest import QUIET, WORLD, random_adapter
from tests.data.test_reference_source import OPTIONS, write_zoo

FEW = replace(WORLD, train_classes=1, val_classes=0, test_classes=0)


@pytest.fixture
def mine(prepared: Path, tmp_path: Path) -> Path:
    return copytree(prepared, tmp_path / "mine")


def header(backbone: Backbone) -> dict[str, str]:
    return {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}


@pytest.mark.parametrize("name", ["../../theirs/encoded/x", "/x", "..", "a/b"])
def test_an_id_that_leads_out_is_refused(name: str, mine: Path, backbone: Backbone) -> None:
    rows = [json.loads(line) for line in (mine / "samples.jsonl").read_text().splitlines()]
    rows[1]["id"] = name
    (mine / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"samples\.jsonl, entry 2: .*can't be a file's name"):
        read_samples(mine)
    with pytest.raises(DataError, match="can't be a file's name"):
        encoded_path(mine, name)
    store = ZooStore(mine)
    with pytest.raises(DataError, match="can't be a file's name"):
        store.add(random_adapter(backbone, 0), ZooEntry(name, "ok"), "1-of-1", header(backbone))
    store.note(ZooEntry(name, "ok"), "1-of-1")
    with pytest.raises(DataError, match=r"index-1-of-1\.jsonl: .*can't be a file's name"):
        store.entries()


@pytest.mark.parametrize("name", ["samples.jsonl", "set.json", "skipped.jsonl", ".prepare.lock", "encoded"])
def test_a_link_out_of_the_set_is_not_written_through(name: str, tmp_path: Path, backbone: Backbone) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for folder in (theirs, mine):
        prepare("world", folder, backbone, FEW, QUIET)
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    if (mine / name).is_dir():
        for path in (mine / name).iterdir():
            path.unlink()
        (mine / name).rmdir()
    else:
        (mine / name).unlink()
    (mine / name).symlink_to(theirs / name)
    with pytest.raises(DataError, match=f"{name}.*leads out of {mine}"):
        prepare("world", mine, backbone, replace(FEW, train_clips=4), QUIET)
    assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before


def test_a_zoo_is_not_written_through_links(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "set" / "zoo").mkdir(parents=True)
    store = ZooStore(tmp_path / "set")
    for name in ("a.safetensors", "index-1-of-1.jsonl"):
        (store.folder / name).symlink_to(tmp_path / "other" / name)
        with pytest.raises(DataError, match="leads out of"):
            store.add(random_adapter(backbone, 0), ZooEntry("a", "ok"), "1-of-1", header(backbone))
        (store.folder / name).unlink()
        (store.folder / "a.safetensors").unlink(missing_ok=True)
    store.folder.rmdir()
    store.folder.symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="leads out of"):
        store.add(random_adapter(backbone, 0), ZooEntry("a", "ok"), "1-of-1", header(backbone))
    assert not list((tmp_path / "other").iterdir())


def test_a_set_may_lie_elsewhere(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    samples = prepare("world", tmp_path / "set", backbone, FEW, QUIET).samples
    assert read_samples(tmp_path / "disk") == samples


@pytest.mark.parametrize("key", ["file_name", "input_emb"])
@pytest.mark.parametrize("lead", [lambda file: f"../other/{file}", lambda file: f"link/{file}", "{}/other/{}".format])
def test_a_published_zoo_names_files_below_it(
    key: str, lead: Callable[..., str], tmp_path: Path, backbone: Backbone
) -> None:
    folder = tmp_path / "theirs"
    entries = write_zoo(folder, backbone)
    copytree(folder, tmp_path / "other")
    (folder / "link").symlink_to(tmp_path / "other")
    absolute = lead == "{}/other/{}".format
    entries[1][key] = lead(tmp_path, entries[1][key]) if absolute else lead(entries[1][key])
    (folder / "metadata.json").write_text(json.dumps(entries))
    report = prepare(f"reference:{folder}", tmp_path / "set", backbone, OPTIONS, QUIET)
    ((where, reason),) = [(skip.source, skip.reason) for skip in report.skipped]
    assert where.endswith("metadata.json, entry 2") and f"leads out of {folder}" in reason
    assert len(report.samples) == 2


def test_the_next_preparation_removes_what_a_killed_one_left(tmp_path: Path, backbone: Backbone) -> None:
    set_dir = tmp_path / "set"
    left = [set_dir / "encoded/.a.safetensors.0123abcd.tmp.safetensors", set_dir / ".set.json.0123abcd.tmp.json"]
    (set_dir / "encoded").mkdir(parents=True)
    for path in left:
        path.write_bytes(b"half")
    with locked(set_dir / ".prepare.lock"), pytest.raises(DataError, match="another process is preparing this set"):
        prepare("world", set_dir, backbone, FEW, QUIET)
    assert all(path.exists() for path in left)
    prepare("world", set_dir, backbone, FEW, QUIET)
    assert not temporaries(set_dir) and not temporaries(set_dir / "encoded")


def test_an_import_leaves_the_temporaries_of_a_living_shard(tmp_path: Path, backbone: Backbone) -> None:
    write_zoo(tmp_path / "theirs", backbone)
    zoo = tmp_path / "set" / "zoo"
    zoo.mkdir(parents=True)
    left = zoo / ".a.safetensors.0123abcd.tmp.safetensors"
    left.touch()
    with locked(zoo / "index-1-of-1.jsonl"):
        prepare(f"reference:{tmp_path / 'theirs'}", tmp_path / "set", backbone, OPTIONS, QUIET)
        assert left.exists()
    prepare(f"reference:{tmp_path / 'theirs'}", tmp_path / "set", backbone, OPTIONS, QUIET)
    assert not left.exists()


def test_what_the_disk_refuses_is_no_fault_of_an_imported_sample(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise WriteError(tmp_path / "x", "no space is left on the disk", no_space=True)

    write_zoo(tmp_path / "theirs", backbone)
    monkeypatch.setattr("lofa.data.preparation.write_encoded", refuse)
    with pytest.raises(WriteError):
        prepare(f"reference:{tmp_path / 'theirs'}", tmp_path / "set", backbone, OPTIONS, QUIET)
    assert not (tmp_path / "set" / "samples.jsonl").exists()


@pytest.mark.parametrize("reference", [False, True])
def test_a_full_disk_stops_a_preparation_that_goes_on_later(
    reference: bool, tmp_path: Path, full_disk: Path, backbone: Backbone
) -> None:
    write_zoo(tmp_path / "theirs", backbone)
    source, options = (f"reference:{tmp_path / 'theirs'}", OPTIONS) if reference else ("world", FEW)
    (full_disk / "fill").write_bytes(bytes(245_000 if reference else 255_000))
    with pytest.raises(WriteError, match=r"set/(encoded|zoo)/[\w-]+\.safetensors: not written, No space left"):
        prepare(source, full_disk / "set", backbone, options, QUIET)
    assert not (full_disk / "set" / "samples.jsonl").exists()
    assert not any(temporaries(folder) for folder in (full_disk / "set").iterdir() if folder.is_dir())
    (full_disk / "fill").unlink()
    if not reference:
        assert prepare(source, full_disk / "set", backbone, options, QUIET).samples
