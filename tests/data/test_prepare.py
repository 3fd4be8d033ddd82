"""Preparing: the same way from every source, resumable, and no broken clip stops it."""

import json
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lofa.backbones import Backbone, load_backbone
from lofa.data import PrepareOptions, Sample, encoded_path, prepare, read_encoded, read_samples
from lofa.data.preparation import open_source
from lofa.data.source import ClipShape
from lofa.errors import DataError, LofaError
from lofa.files import digest, read_tensors
from lofa.worlds import SPLITS, sample_batch
from tests.data.conftest import FRAMES, QUIET, SIDE, WORLD, grey_ramp, write_video
from tests.helpers.tiny_wan import make_tiny_wan

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets"


def skipped(set_dir: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (set_dir / "skipped.jsonl").read_text().splitlines()]
    return {Path(row["source"]).name: row["reason"] for row in rows}


def folder_of_clips(folder: Path, names: tuple[str, ...] = ("walk/one.mp4", "walk/two.avi", "jump/three.gif")) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, grey_ramp(6))
        path.with_suffix(".txt").write_text(f"a figure, {path.stem}!\n")
    return folder


def test_the_world_is_encoded_as_its_clips_and_captions_are(prepared: Path, backbone: Backbone) -> None:
    samples = read_samples(prepared)
    assert Counter((s.split, s.role) for s in samples) == {
        ("train", "adapt"): 9, ("val", "adapt"): 2, ("val", "score"): 2, ("test", "adapt"): 2, ("test", "score"): 2,
    }  # fmt: skip
    assert all(SPLITS[sample.group] == sample.split for sample in samples)
    assert len({sample.seed for sample in samples}) == len(samples)
    sample = samples[4]
    (clip,) = sample_batch([sample.group], [sample.seed], FRAMES, SIDE)
    encoded = read_encoded(prepared, sample, backbone)
    assert encoded.latents is not None and "pose" in encoded.conditions
    latents = backbone.encode_video(torch.from_numpy(clip.frames)[None])[0]
    torch.testing.assert_close(encoded.latents, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded.conditions["pose"], torch.from_numpy(clip.joints))
    torch.testing.assert_close(
        encoded.conditions["text"], backbone.encode_prompt([clip.caption]).row(0), atol=1e-5, rtol=1e-5
    )
    assert sample.caption == clip.caption


def test_what_is_encoded_is_kept_and_what_is_damaged_is_made_again(tmp_path: Path, backbone: Backbone) -> None:
    few = replace(WORLD, train_classes=1, val_classes=0, test_classes=0)
    first = prepare("world", tmp_path / "w", backbone, few, QUIET)
    files = [encoded_path(tmp_path / "w", sample.id) for sample in first.samples]
    # tensors that were read are views of the file, which is about to be spoilt
    before = [{name: tensor.clone() for name, tensor in read_tensors(path).items()} for path in files]
    kept = digest(files[2])
    files[0].write_bytes(files[0].read_bytes()[:-10])
    files[1].unlink()
    (tmp_path / "w" / "samples.jsonl").unlink()  # as after an interruption
    again = prepare("world", tmp_path / "w", backbone, few, QUIET)
    assert (again.encoded, again.reused) == (2, 1)
    assert again.samples == first.samples == read_samples(tmp_path / "w")
    assert digest(files[2]) == kept
    for path, tensors in zip(files, before, strict=True):
        torch.testing.assert_close(read_tensors(path), tensors, atol=1e-5, rtol=1e-5)
    assert prepare("world", tmp_path / "w", backbone, replace(few, train_clips=4), QUIET).encoded == 1


def test_the_batch_changes_nothing(tmp_path: Path, backbone: Backbone) -> None:
    few = replace(WORLD, train_classes=2, val_classes=0, test_classes=0)
    sets = [tmp_path / "a", tmp_path / "b"]
    for set_dir, batch in zip(sets, (1, 4), strict=True):
        prepare("world", set_dir, backbone, replace(few, batch=batch), QUIET)
    for sample in read_samples(sets[0]):
        one, other = (read_encoded(set_dir, sample, backbone) for set_dir in sets)
        assert one.latents is not None and other.latents is not None
        torch.testing.assert_close(one.latents, other.latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.conditions["text"], other.conditions["text"], atol=1e-5, rtol=1e-5)


def test_half_precision_halves_the_bytes(tmp_path: Path, backbone: Backbone, prepared: Path) -> None:
    few = replace(WORLD, train_classes=1, val_classes=0, test_classes=0, dtype="float16")
    sample = prepare("world", tmp_path / "w", backbone, few, QUIET).samples[0]
    small, large = (encoded_path(folder, sample.id).stat().st_size for folder in (tmp_path / "w", prepared))
    assert small < 0.7 * large
    text = read_encoded(tmp_path / "w", sample, backbone).conditions["text"]
    assert text.dtype == torch.float32 and torch.isfinite(text).all()


def test_a_folder_with_texts_beside_the_clips(tmp_path: Path, backbone: Backbone) -> None:
    folder = folder_of_clips(tmp_path / "clips")
    write_video(folder / "silent.mp4", grey_ramp(6))  # no caption
    write_video(folder / "blank.mp4", grey_ramp(6)).with_suffix(".txt").write_text("  \n")
    (folder / "broken.mkv").write_text("no video")
    (folder / "broken.txt").write_text("a figure")
    long = write_video(folder / "long.mp4", grey_ramp(6))
    long.with_suffix(".txt").write_text("figure " * 300)
    out = StringIO()
    report = prepare(str(folder), tmp_path / "set", backbone, PrepareOptions(), Console(file=out, width=200))
    assert {(s.group, s.caption) for s in report.samples} == {
        ("walk", "a figure, one!"), ("walk", "a figure, two!"), ("jump", "a figure, three!"),
    }  # fmt: skip
    reasons = skipped(tmp_path / "set")
    assert reasons.keys() == {"silent.mp4", "blank.mp4", "broken.mkv", "long.mp4"}
    assert "caption missing" in reasons["silent.mp4"] and "caption missing" in reasons["blank.mp4"]
    assert "not a video" in reasons["broken.mkv"] and "tokens" in reasons["long.mp4"]
    assert all(name in out.getvalue() for name in reasons) and "3 samples" in out.getvalue()
    assert all(sample.encoded == ("condition.text", "latents") for sample in report.samples)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_of_captions(tmp_path: Path, backbone: Backbone, suffix: str) -> None:
    folder = folder_of_clips(tmp_path / "clips", ("a.mp4", "b.mp4", "c.mp4", "d.mp4"))
    rows = [
        {"file_name": "a.mp4", "text": 'she says "hi", twice', "action": "wave", "split": "test"},
        {"file_name": "b.mp4", "text": "two\nlines", "action": "wave", "split": "test", "role": "score"},
        {"file_name": "c.mp4", "text": ""},
        {"file_name": "none.mp4", "text": "nothing there"},
        {"file_name": "a.mp4", "text": "again"},
    ]
    table = folder / f"captions.{suffix}"
    if suffix == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)) + "\n[1, 2\n")
    else:
        quoted = [[str(row.get(key, "")).replace('"', '""') for key in rows[0] | {"role": ""}] for row in rows]
        lines = [",".join(f'"{value}"' for value in row) for row in quoted]
        table.write_text("\ufefffile_name,text,action,split,role\r\n" + "\r\n".join(lines))
    for source in (folder, table):
        report = prepare(str(source), tmp_path / f"set-{source.name}", backbone, PrepareOptions(), QUIET)
        found = {s.caption: (s.group, s.split, s.role) for s in report.samples}
        assert found == {'she says "hi", twice': ("wave", "test", "adapt"), "two lines": ("wave", "test", "score")}
    reasons = skipped(tmp_path / "set-clips")
    assert "caption missing" in reasons["c.mp4"] and "no such file" in reasons["none.mp4"]
    assert "named twice" in reasons["a.mp4"] and "no row" in reasons["d.mp4"]


def test_windows_of_one_video_are_siblings(tmp_path: Path, backbone: Backbone) -> None:
    path = write_video(tmp_path / "clips.mp4", grey_ramp(20))
    path.with_suffix(".txt").write_text("a figure")
    report = prepare(str(tmp_path), tmp_path / "set", backbone, PrepareOptions(clips_per_video=3), QUIET)
    assert len(report.samples) == 3 and len({sample.group for sample in report.samples}) == 1
    latents = [read_encoded(tmp_path / "set", sample, backbone).latents for sample in report.samples]
    assert not any(
        torch.equal(a, b) for a, b in zip(latents, latents[1:], strict=False) if a is not None and b is not None
    )


def test_a_changed_caption_or_video_is_encoded_again(tmp_path: Path, backbone: Backbone) -> None:
    folder = folder_of_clips(tmp_path / "clips")
    prepare(str(folder), tmp_path / "set", backbone, console=QUIET)
    (folder / "walk/one.txt").write_text("the left arm")
    report = prepare(str(folder), tmp_path / "set", backbone, console=QUIET)
    assert (report.encoded, report.reused) == (1, 2)
    write_video(folder / "walk/two.avi", grey_ramp(9))
    assert prepare(str(folder), tmp_path / "set", backbone, console=QUIET).encoded == 1


def pose_file(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    lengths = np.array([9, 5, 12, 7, 0, 8, 8, 6, 9, 5])
    arrays: dict[str, object] = {
        "keypoints": rng.normal(size=(int(lengths.sum()), 15, 2)).astype(np.float32),
        "lengths": lengths,
        "labels": np.array(["walk", "catch", "golf", "walk", "walk", "golf", "golf", "golf", "catch", "walk"]),
    }
    np.savez(path, **(arrays | changes))
    return path


def test_poses_are_drawn_with_their_joints(tmp_path: Path, backbone: Backbone) -> None:
    path = pose_file(tmp_path / "poses.npz")
    with np.load(path) as file:
        points = file["keypoints"]
    points[9:14] = np.nan  # the whole second sequence
    options = PrepareOptions(
        held_out_labels=("golf",),
        held_out_fraction=0.5,
        test_adapt=2,
        phrases={"golf": "swings a club"},
        dtype="float32",
    )
    report = prepare(str(pose_file(path, keypoints=points)), tmp_path / "set", backbone, options, QUIET)
    assert len(report.samples) == 8
    assert {s.group for s in report.samples if s.split == "test"} == {"golf"}
    assert Counter(s.role for s in report.samples if s.split == "test") == {"adapt": 2, "score": 2}
    assert {s.split for s in report.samples} == {"train", "val", "test"}
    captions = {sample.group: sample.caption for sample in report.samples}
    assert "swings a club" in captions["golf"] and "catches" in captions["catch"] and "walks" in captions["walk"]
    pose = read_encoded(tmp_path / "set", report.samples[0], backbone).conditions["pose"]
    assert pose is not None and pose.shape == (FRAMES, 15, 2) and pose.min() >= 0 and pose.max() <= 1
    reasons = skipped(tmp_path / "set")
    assert "missing or not finite" in reasons["poses.npz[1]"] and "zero frames" in reasons["poses.npz[4]"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": np.array([1, 2])}, "lengths"),
        ({"keypoints": np.zeros((69, 17, 2))}, "15"),
        ({"labels": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
    ],
)
def test_a_wrong_pose_file_says_what_is_wrong(
    tmp_path: Path, backbone: Backbone, changes: dict[str, object], words: str
) -> None:
    path = pose_file(tmp_path / "poses.npz", **changes)
    with pytest.raises(DataError, match=words) as caught:
        prepare(str(path), tmp_path / "set", backbone, console=QUIET)
    assert str(path) in str(caught.value) and not (tmp_path / "set").exists()


def test_missing_arrays_labels_and_sources_are_named(tmp_path: Path, backbone: Backbone) -> None:
    np.savez(tmp_path / "half.npz", lengths=np.array([1]), labels=np.array(["a"]))
    poses = pose_file(tmp_path / "poses.npz")
    table = [
        (tmp_path / "half.npz", PrepareOptions(), "keypoints"),
        (poses, PrepareOptions(held_out_labels=("tennis",)), "tennis.*catch, golf, walk"),
        (poses, PrepareOptions(height=64), "height=64"),
        (tmp_path / "nowhere", PrepareOptions(), "no such file or folder"),
        (tmp_path, PrepareOptions(captions="gone.csv"), "captions=gone.csv"),
        ("world", PrepareOptions(train_classes=10_000), "train_classes=10000"),
        ("world", replace(WORLD, frames=6), "frames"),
    ]
    for source, options, words in table:
        with pytest.raises(LofaError, match=words):
            prepare(str(source), tmp_path / "set", backbone, options, QUIET)
        assert not (tmp_path / "set").exists()
    with pytest.raises(LofaError, match="frames=0"):
        PrepareOptions(frames=0)


def test_nothing_left_is_an_error_and_leaves_no_set(tmp_path: Path, backbone: Backbone) -> None:
    write_video(tmp_path / "silent.mp4", grey_ramp(6))
    with pytest.raises(DataError, match="no sample remains.*silent.mp4.*caption missing"):
        prepare(str(tmp_path), tmp_path / "set", backbone, console=QUIET)
    assert not (tmp_path / "set" / "samples.jsonl").exists()


def test_a_set_of_another_backbone_or_source_is_left_alone(tmp_path: Path, backbone: Backbone) -> None:
    few = replace(WORLD, train_classes=1, val_classes=0, test_classes=0, train_clips=1)
    prepare("world", tmp_path / "set", backbone, few, QUIET)
    other = load_backbone(str(make_tiny_wan(tmp_path / "other", seed=1)))
    other.max_prompt_tokens = 200
    with pytest.raises(DataError, match=f"{backbone.fingerprint}.*{other.fingerprint}.*data=<name>"):
        prepare("world", tmp_path / "set", other, few, QUIET)
    with pytest.raises(DataError, match="source=world"):
        prepare(str(folder_of_clips(tmp_path / "clips")), tmp_path / "set", backbone, console=QUIET)
    (tmp_path / "set" / "set.json").unlink()
    with pytest.raises(DataError, match="made for backbone"):
        prepare("world", tmp_path / "set", other, few, QUIET)


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the folder of real inputs is not here")
def test_real_poses_are_prepared(tmp_path: Path, backbone: Backbone) -> None:
    with np.load(ASSETS / "jhmdb" / "train.npz") as file:
        lengths, labels = file["lengths"], file["labels"]
        chosen = np.concatenate([np.flatnonzero(labels == label)[:2] for label in ("golf", "wave", "sit")])
        spans = np.split(file["keypoints"], np.cumsum(lengths)[:-1])
    points = np.concatenate([spans[i] for i in chosen])
    np.savez(tmp_path / "few.npz", keypoints=points, lengths=lengths[chosen], labels=labels[chosen])
    options = PrepareOptions(held_out_labels=("golf",), held_out_fraction=0.0)
    report = prepare(str(tmp_path / "few.npz"), tmp_path / "set", backbone, options, QUIET)
    assert len(report.samples) == 6 and not report.skipped
    assert Counter(sample.split for sample in report.samples) == {"train": 4, "test": 2}


@pytest.mark.skipif(not ASSETS.is_dir(), reason="the folder of real inputs is not here")
def test_real_videos_are_prepared(tmp_path: Path, backbone: Backbone) -> None:
    table = tmp_path / "captions.csv"
    names = sorted(path.name for path in (ASSETS / "videos").iterdir())
    table.write_text("file,caption\n" + "".join(f"{ASSETS / 'videos' / name},a figure waves\n" for name in names))
    report = prepare(str(table), tmp_path / "set", backbone, PrepareOptions(), QUIET)
    samples: list[Sample] = report.samples
    assert len(samples) == len(names) == 5 and not report.skipped


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": np.array([10.0, 30.0])},
        {"lengths": np.array([10, np.nan])},
        {"lengths": np.array(["10", "30"])},
        {"lengths": np.array(40)},
        {"lengths": np.array([[10, 30]])},
        {"lengths": np.array([50, -10])},
        {"lengths": np.array([], int), "labels": np.array([], str), "keypoints": np.zeros((0, 15, 2))},
        {"labels": np.array("wave")},
        {"labels": np.array([["wave", "run"]])},
        {"keypoints": np.full((40, 15, 2), "1.0")},
        {"keypoints": np.zeros((40, 15, 2), complex)},
    ],
    ids=str,
)
def test_arrays_of_poses_that_are_no_poses_are_refused(wrong: dict[str, np.ndarray], tmp_path: Path) -> None:
    whole = {"keypoints": np.zeros((40, 15, 2)), "lengths": np.array([10, 30]), "labels": np.array(["wave", "run"])}
    np.savez(tmp_path / "poses.npz", **(whole | wrong))
    with pytest.raises(DataError, match=r"poses\.npz: "):
        open_source(str(tmp_path / "poses.npz"), PrepareOptions(), ClipShape(5, 32, 32, 8.0))
