"""Groups are fixed when a shard begins: what interrupts it changes no byte."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lofa.backbones import Backbone
from lofa.cli.problems import explain
from lofa.data import Sample, ZooStore, encoded_path
from lofa.errors import DataError, WriteError
from lofa.files import read_json, read_jsonl, temporaries
from lofa.zoo import LoraPlan, ZooOptions, build, build_zoo
from lofa.zoo.plan import plan_groups
from tests.zoo.sets import digests, sample, write_set

OPTIONS = ZooOptions(rank=2, steps=2, warmup=0, batch=2, clips_per_step=1, probe_levels=2, lr=0.3)


def run(folder: Path, backbone: Backbone, **changes: object) -> None:
    build_zoo(folder, backbone, replace(OPTIONS, **changes), progress=False)


def lines(folder: Path) -> list[str]:
    return [row["id"] for row in read_jsonl(ZooStore(folder).index("1-of-1"))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    folder = write_set(tmp_path_factory.mktemp("zoo"), backbone)
    run(folder, backbone)
    return folder


def failing_at(call: int, function: Callable[..., None], error: Exception) -> Callable[..., None]:
    """`function`, which raises `error` the `call`-th time and does nothing."""
    left = iter(range(call))

    def failing(*args: object) -> None:
        if next(left, None) is None:
            raise error
        function(*args)

    return failing


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bytes(
    written: int, tmp_path: Path, undisturbed: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path, backbone)
    with monkeypatch.context() as patch, pytest.raises(KeyError, match="stop"):
        patch.setattr(build, "write", failing_at(written, build.write, KeyError("stop")))
        run(folder, backbone)
    assert len(lines(folder)) == written
    run(folder, backbone)
    assert digests(folder) == digests(undisturbed)
    assert sorted(lines(folder)) == sorted(lines(undisturbed))


def test_a_file_without_its_line_gets_one(tmp_path: Path, undisturbed: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    run(folder, backbone)
    index = ZooStore(folder).index("1-of-1")
    kept = index.read_text().splitlines()
    index.write_text("\n".join(kept[:-1]) + "\n" + kept[-1][:20])  # killed in the middle of a line
    run(folder, backbone)
    assert digests(folder) == digests(undisturbed)
    assert sorted(lines(folder)) == sorted(lines(undisturbed))


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_full_disk_ends_in_one_message_and_the_run_can_go_on(
    call: int, tmp_path: Path, undisturbed: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path, backbone)
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        monkeypatch.context() as patch,
        pytest.raises(WriteError, match=r"zoo/[\w.-]+: not written, No space left") as caught,
    ):
        patch.setattr(os, "fsync", failing_at(call, os.fsync, full))
        run(folder, backbone)
    assert "run the same command again" in str(explain(caught.value))
    assert not temporaries(folder / "zoo")
    assert digests(folder).items() <= digests(undisturbed).items()
    run(folder, backbone)
    assert digests(folder) == digests(undisturbed)


def test_a_sample_that_cannot_be_read_costs_its_own_lora_alone(
    tmp_path: Path, undisturbed: Path, backbone: Backbone
) -> None:
    folder = write_set(tmp_path, backbone)
    broken = encoded_path(folder, "g1-2")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-50])
    report = build_zoo(folder, backbone, OPTIONS, progress=False)
    ((name, reason),) = report.unreadable
    assert name == "g1-0" and str(broken) in reason
    before = lines(folder)
    assert sorted(before) == ["g0-0", "g2-0", "g3-0"]
    assert build_zoo(folder, backbone, OPTIONS, progress=False).trained == 0 and lines(folder) == before
    broken.write_bytes(whole)
    run(folder, backbone)
    name = "g1-0.safetensors"
    assert lines(folder) == [*before, "g1-0"] and digests(folder).get(name) == digests(undisturbed).get(name)


def test_other_batches_change_the_groups_that_nobody_began(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)

    def planned() -> list[list[str]]:
        return read_json(folder / "zoo" / "plan-1-of-1.json")["groups"]

    run(folder, backbone)
    assert planned() == [["g0-0", "g1-0"], ["g2-0", "g3-0"]]
    index = ZooStore(folder).index("1-of-1")
    index.write_text(index.read_text().splitlines()[0] + "\n")  # as if killed after the first
    run(folder, backbone, batch=1)
    assert planned() == [["g0-0", "g1-0"], ["g2-0"], ["g3-0"]]
    run(folder, backbone, batch=4, per_group=2)
    assert planned() == [["g0-0", "g1-0"], ["g2-0"], ["g3-0"], ["g0-1", "g1-1", "g2-1", "g3-1"]]


def test_a_group_has_samples_of_one_size(tmp_path: Path, backbone: Backbone) -> None:
    def plan(name: str, held_out: tuple[Sample, ...] = (), **size: object) -> LoraPlan:
        return LoraPlan((replace(sample(name, "train", name), **size),), held_out)

    plans = [plan("a"), plan("b", size=(64, 32)), plan("c", frames=9), plan("d"), plan("e", size=(64, 32)), plan("f")]
    plans.append(plan("g", (sample("h", "train", "g"),)))
    by_id = {one.anchor.id: one for one in plans}
    groups = plan_groups(ZooStore(tmp_path), by_id, (), backbone, OPTIONS, lambda alike: 2)
    assert [[one.anchor.id for one in group] for group in groups] == [["a", "d"], ["f"], ["b", "e"], ["c"], ["g"]]
    again = plan_groups(ZooStore(tmp_path), by_id, ("a", "d", "b"), backbone, OPTIONS, lambda alike: 99)
    assert again == groups[1:]


def test_a_damaged_plan_is_named(tmp_path: Path, backbone: Backbone) -> None:
    folder = write_set(tmp_path, backbone)
    (folder / "zoo").mkdir()
    (folder / "zoo" / "plan-1-of-1.json").write_text("{}")
    with pytest.raises(DataError, match=r"plan-1-of-1.json: not the plan of a shard; delete it"):
        run(folder, backbone)
