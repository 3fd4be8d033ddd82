"""`lofa prepare`: clips, captions and joints become encoded samples of one backbone, once.

What is encoded already is left alone, so an interrupted run goes on where it stopped; a clip that is broken is left out
with its reason. samples.jsonl is written last and whole: a set either is prepared or is not. One process prepares a set
at a time, held by a lock on `.prepare.lock` in it, and removes the temporaries of killed ones.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lofa.backbones import Backbone
from lofa.data.encode import Encoder
from lofa.data.folder_source import FolderSource
from lofa.data.options import PrepareOptions
from lofa.data.pose_source import PoseSource
from lofa.data.reference_source import ReferenceImport, ReferenceSource
from lofa.data.samples import SPLIT_NAMES, Sample, find_encoded, write_samples
from lofa.data.source import ClipShape, Plan, Skipped, Source
from lofa.data.world_source import WorldSource
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, remove_temporaries, write_json
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
    """The shape of a set's clips: what the options name, else the backbone's own sampling defaults.

    Raises:
        DataError: a value that is not above 0. What sizes it takes, the backbone says when it encodes.
    """
    own = backbone.sampling
    shape = ClipShape(
        own.frames if options.frames is None else options.frames,
        own.height if options.height is None else options.height,
        own.width if options.width is None else options.width,
        own.fps if options.fps is None else options.fps,
    )
    for key in ("frames", "height", "width", "fps"):
        if not 0 < getattr(shape, key) < math.inf:
            raise DataError(f"prepare.{key}={getattr(shape, key)}: must be a number above 0")
    return shape


def open_source(source: str, options: PrepareOptions, shape: ClipShape) -> Source | ReferenceSource:
    """The source a user named: "world", a folder of videos, a csv or jsonl, an npz of poses, "reference:<folder>".

    Raises:
        DataError: it is none of these, or can't be read.
    """
    kinds = "give a folder of videos, a csv or jsonl of captions, an npz of poses, reference:<folder>, or world"
    if source == "world":
        return WorldSource(options, shape)
    if source.startswith(PREFIX):
        return ReferenceSource(Path(source.removeprefix(PREFIX)), options, shape)
    path = Path(source)
    if not path.exists():
        raise DataError(f"source={source}: no such file or folder; {kinds}")
    if path.is_dir() or path.suffix.lower() in (".csv", ".jsonl"):
        return FolderSource(path, options, shape)
    if path.suffix.lower() == ".npz":
        return PoseSource(path, options, shape)
    raise DataError(f"source={source}: a {path.suffix or 'file without suffix'} is no source; {kinds}")


def prepare(
    source: str,
    set_dir: Location,
    backbone: Backbone,
    options: PrepareOptions | None = None,
    console: Console | None = None,
) -> PrepareReport:
    """Encodes every clip of a source for `backbone` into `set_dir`, and says what was left out.

    Args:
        source: "world", a folder of videos, a csv or jsonl of captions, an npz of poses, or "reference:<folder>" for a
            zoo of the published code
        set_dir: folder of the set, `data/<set>`
        backbone: encodes clips and captions
        options: what is taken of the source, and how it is stored
        console: where progress and the report go; None: the terminal

    Raises:
        DataError: no such source, an option out of range, a set of another backbone or source, one that another
            process prepares, a symbolic link that leads out of it, or no sample remains.
        WriteError: a full disk; what was written is whole.
    """
    options, console, set_dir = options or PrepareOptions(), console or Console(), locate(set_dir)
    opened = open_source(source, options, clip_shape(backbone, options))
    _check_owner(set_dir, opened, backbone)
    plan = opened.plan()
    destination = (set_dir, backbone, getattr(torch, options.dtype), plan.stamps, list(plan.skipped))
    encoder: Encoder | ReferenceImport = (
        ReferenceImport(opened, *destination) if isinstance(opened, ReferenceSource) else Encoder(opened, *destination)
    )
    with _claimed(set_dir):
        report = _encode(plan, encoder, set_dir, backbone, options.batch, console)
        _print(console, report, set_dir)
        if not report.samples:
            first = f"; the first: {report.skipped[0].source}: {report.skipped[0].reason}" if report.skipped else ""
            raise DataError(f"no sample remains of source={source} ({len(report.skipped)} skipped{first})")
        _write_skipped(set_dir, report.skipped)
        description = _description(opened, backbone, report.samples)
        write_json(inside(set_dir, set_dir / "set.json"), description)
        write_samples(set_dir, report.samples)
    return report


@contextmanager
def _claimed(set_dir: Place) -> Iterator[None]:
    """Holds a set for the time of the block, cleared of what killed processes left. A store has neither lock nor these.

    Raises:
        DataError: another process prepares the set.
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
        remove_temporaries(inside(set_dir, zoo.folder), lambda: not zoo.is_written())
        try:
            yield
        finally:
            if list(set_dir.iterdir()) == [lock]:  # nothing came of it
                lock.unlink()
                set_dir.rmdir()


def _encode(
    plan: Plan,
    encoder: Encoder | ReferenceImport,
    set_dir: Place,
    backbone: Backbone,
    batch: int,
    console: Console,
) -> PrepareReport:
    """Encodes the samples that are not encoded yet, a batch at a time."""
    done: dict[str, Sample] = {}
    for sample in plan.samples:
        found = find_encoded(set_dir, sample, backbone, plan.stamps.get(sample.id, ""))
        if found is not None:
            done[sample.id] = found
    reused = len(done)
    todo = [sample for sample in plan.samples if sample.id not in done]
    with _progress(console) as progress:
        task = progress.add_task(f"prepare {set_dir.name}", total=len(plan.samples), completed=reused)
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            done |= {sample.id: sample for sample in encoder.encode(part)}
            progress.advance(task, len(part))
    samples = [done[sample.id] for sample in plan.samples if sample.id in done]
    return PrepareReport(samples, len(samples) - reused, reused, encoder.skipped)


def _description(source: Source | ReferenceSource, backbone: Backbone, samples: Sequence[Sample]) -> dict[str, object]:
    return {
        "source": source.name,
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "splits": dict(Counter(sample.split for sample in samples)),
    }


def _check_owner(set_dir: Place, source: Source | ReferenceSource, backbone: Backbone) -> None:
    path = set_dir / "set.json"
    if not path.is_file():
        return
    before = read_json(path)
    way_out = "Choose another name with data=<name>, or delete the folder"
    if not backbone.accepts(before.get("backbone_fingerprint")):
        raise DataError(
            f"{set_dir}: prepared for backbone {before.get('backbone')!r} (fingerprint "
            f"{before.get('backbone_fingerprint')}), not for {backbone.name!r} ({backbone.fingerprint}). {way_out}"
        )
    if before.get("source") != source.name:
        raise DataError(f"{set_dir}: prepared from source={before.get('source')}, not from {source.name}. {way_out}")


def _write_skipped(set_dir: Place, skipped: Sequence[Skipped]) -> None:
    lines = "".join(json.dumps(vars(skip)) + "\n" for skip in skipped)
    with atomic_write(inside(set_dir, set_dir / "skipped.jsonl")) as temporary:
        temporary.write_text(lines, encoding="utf-8")


def _progress(console: Console) -> Progress:
    text, bar, count = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(text, bar, count, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _print(console: Console, report: PrepareReport, set_dir: Place, most: int = 20) -> None:
    counts = Counter(sample.split for sample in report.samples)
    lines = [
        f"{set_dir}: {len(report.samples)} samples ({', '.join(f'{split} {counts[split]}' for split in SPLIT_NAMES)}); "
        f"{report.encoded} encoded now, {report.reused} were there already"
    ]
    if report.skipped:
        lines.append(f"skipped {len(report.skipped)}:")
        lines += [f"  {skip.source}: {skip.reason}" for skip in report.skipped[:most]]
    if len(report.skipped) > most:
        lines.append(f"  ... and {len(report.skipped) - most} more in {set_dir / 'skipped.jsonl'}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
