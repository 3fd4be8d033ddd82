"""`lofa prepare`: clips, captions and joints become encoded samples of one backbone, once.

What is encoded already is left alone, so an interrupted run goes on where it stopped; a clip that is broken is left out
with its reason. samples.jsonl is written last and whole: a set either is prepared or is not.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from lofa.backbones import Backbone
from lofa.data.folder_source import FolderSource
from lofa.data.options import PrepareOptions
from lofa.data.pose_source import PoseSource
from lofa.data.reference import ReferenceSource
from lofa.data.samples import SPLIT_NAMES, Sample, check_backbone, find_encoded, write_encoded, write_samples
from lofa.data.source import ClipShape, Made, Plan, Skipped, Source
from lofa.data.world_source import WorldSource
from lofa.data.zoo_store import ZooEntry, ZooStore
from lofa.errors import DataError, LofaError, WriteError
from lofa.files import read_json, remove_temporaries, write_json, write_jsonl
from lofa.interop import PREFIX
from lofa.paths import Location, Place, inside, locate
from lofa.processes import locked

__all__ = ["PrepareReport", "clip_shape", "open_source", "prepare"]


@dataclass(frozen=True)
class PrepareReport:
    """What a run of `prepare` did."""

    samples: list[Sample]
    """every sample of the set now"""
    encoded: int
    """encoded in this run"""
    reused: int
    """found encoded"""
    skipped: list[Skipped]


def clip_shape(backbone: Backbone, options: PrepareOptions) -> ClipShape:
    """The shape of a set's clips: what the options name, else the backbone's own sampling defaults."""
    chosen = {key: getattr(options, key) for key in ("frames", "height", "width", "fps")}
    return ClipShape(**{key: getattr(backbone.sampling, key) if v is None else v for key, v in chosen.items()})


def open_source(source: str, options: PrepareOptions, shape: ClipShape) -> Source:
    """The source a user named: "world", a folder of videos, a csv or jsonl, an npz of poses, "reference:<folder>".

    Raises:
        DataError: it is none of these, or can't be read.
    """
    if source == "world":
        return WorldSource(options, shape)
    if source.startswith(PREFIX):
        return ReferenceSource(Path(source.removeprefix(PREFIX)), options, shape)
    path = Path(source)
    if path.is_dir() or (path.exists() and path.suffix.lower() in (".csv", ".jsonl")):
        return FolderSource(path, options, shape)
    if path.exists() and path.suffix.lower() == ".npz":
        return PoseSource(path, options, shape)
    raise DataError(
        f"source={source}: {'no source' if path.exists() else 'no such file or folder'}; give a folder of videos, a "
        "csv or jsonl of captions, an npz of poses, reference:<folder>, or world"
    )


def prepare(
    source: str,
    set_dir: Location,
    backbone: Backbone,
    options: PrepareOptions | None = None,
    console: Console | None = None,
) -> PrepareReport:
    """Encodes every clip of a source for `backbone` into `set_dir`, and says what was left out.

    Args:
        source: as `open_source` takes it
        set_dir: folder of the set, `data/<set>`
        backbone: encodes clips and captions
        options: what is taken of the source, and how it is stored
        console: where progress and the report go; None: the terminal

    Raises:
        DataError: no such source, a set of another backbone or source, one that another process prepares, a symbolic
            link that leads out of it, or no sample remains.
        WriteError: a full disk; what was written is whole.
    """
    options, console, set_dir = options or PrepareOptions(), console or Console(), locate(set_dir)
    opened = open_source(source, options, clip_shape(backbone, options))
    _check_owner(set_dir, opened, backbone)
    plan = opened.plan()
    with _claimed(set_dir):
        report = _encode(opened, plan, set_dir, backbone, options, console)
        _print(console, report, set_dir)
        if not report.samples:
            first = f"; the first: {report.skipped[0].source}: {report.skipped[0].reason}" if report.skipped else ""
            raise DataError(f"no sample remains of source={source} ({len(report.skipped)} skipped{first})")
        write_jsonl(inside(set_dir, set_dir / "skipped.jsonl"), map(vars, report.skipped))
        description = {
            "source": opened.name,
            "backbone": backbone.name,
            "backbone_fingerprint": backbone.fingerprint,
            "splits": dict(Counter(sample.split for sample in report.samples)),
        }
        write_json(inside(set_dir, set_dir / "set.json"), description)
        write_samples(set_dir, report.samples)
    return report


@contextmanager
def _claimed(set_dir: Place) -> Iterator[None]:
    """Holds a set for the time of the block, cleared of what killed processes left (DataError: another process has it).

    A store has neither locks nor temporaries.
    """
    if not isinstance(set_dir, Path):
        yield
        return
    lock = inside(set_dir, set_dir / ".prepare.lock")
    with locked(lock) as own:
        if not own:
            raise DataError(f"{set_dir}: another process is preparing this set; wait for it, or stop it")
        zoo = ZooStore(set_dir)
        remove_temporaries(set_dir, lambda: True)
        remove_temporaries(inside(set_dir, set_dir / "encoded"), lambda: True)
        remove_temporaries(inside(set_dir, zoo.folder), lambda: not zoo.living())
        try:
            yield
        finally:
            if list(set_dir.iterdir()) == [lock]:  # nothing came of it
                lock.unlink()
                set_dir.rmdir()


def _encode(
    source: Source, plan: Plan, set_dir: Place, backbone: Backbone, options: PrepareOptions, console: Console
) -> PrepareReport:
    """Writes the files of the samples that have none yet, a batch at a time."""
    found = (find_encoded(set_dir, one, backbone, plan.stamps.get(one.id, "")) for one in plan.samples)
    done = {sample.id: sample for sample in found if sample is not None}
    reused, skipped = len(done), list(plan.skipped)
    todo = [sample for sample in plan.samples if sample.id not in done]
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task(f"prepare {set_dir.name}", total=len(plan.samples), completed=reused)
        for start in range(0, len(todo), options.batch):
            part = todo[start : start + options.batch]
            for sample, made in zip(part, source.make(part, backbone), strict=True):
                try:
                    done[sample.id] = _write(set_dir, sample, made, backbone, options, plan.stamps.get(sample.id, ""))
                except WriteError:
                    raise  # no fault of the sample
                except LofaError as error:
                    skipped.append(Skipped.because(error, sample.source))
            progress.advance(task, len(part))
    samples = [done[sample.id] for sample in plan.samples if sample.id in done]
    return PrepareReport(samples, len(samples) - reused, reused, skipped)


def _write(
    set_dir: Place, sample: Sample, made: Made | LofaError, backbone: Backbone, options: PrepareOptions, stamp: str
) -> Sample:
    """The sample as written; its LoRA goes first, so that a sample that is there has one (raises what was made)."""
    if isinstance(made, LofaError):
        raise made
    dtype = getattr(torch, options.dtype)
    if made.lora is not None:
        header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint, "caption": sample.caption}
        ZooStore(set_dir).add(made.lora, ZooEntry(sample.id, "ok"), "reference", header, dtype)
    return write_encoded(
        set_dir,
        sample,
        made.encoded,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        dtype=dtype,
        fps=made.fps,
        stamp=stamp,
    )


def _check_owner(set_dir: Place, source: Source, backbone: Backbone) -> None:
    path = set_dir / "set.json"
    if not path.is_file():
        return
    before = read_json(path)
    check_backbone(path, before, backbone)
    if before.get("source") != source.name:
        raise DataError(
            f"{set_dir}: prepared from source={before.get('source')}, not from {source.name}. Choose another name with "
            "data=<name>, or delete the folder"
        )


def _print(console: Console, report: PrepareReport, set_dir: Place, most: int = 20) -> None:
    counts = Counter(sample.split for sample in report.samples)
    splits = ", ".join(f"{split} {counts[split]}" for split in SPLIT_NAMES)
    lines = [
        f"{set_dir}: {len(report.samples)} samples ({splits}); {report.encoded} encoded now, {report.reused} were "
        "there already"
    ]
    if report.skipped:
        lines.append(f"skipped {len(report.skipped)}:")
        lines += [f"  {skip.source}: {skip.reason}" for skip in report.skipped[:most]]
    if len(report.skipped) > most:
        lines.append(f"  ... and {len(report.skipped) - most} more in {set_dir / 'skipped.jsonl'}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
