"""Real 2-D pose sequences out of an npz, drawn with the world's figure.

The npz holds `keypoints` (sum of lengths, 15, 2) in any unit with y down and the joints in the world's order, `lengths`
(S,) and `labels` (S,). Every sequence is resampled to the clip's frames over its whole length, placed in the frame by
one shift and one scale, and drawn in a look of its own, which its caption names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lofa.data.options import PrepareOptions
from lofa.data.samples import Sample
from lofa.data.source import ClipShape, ClipSource, Loaded, Plan, Skipped, draw, give_roles, slug
from lofa.errors import DataError
from lofa.worlds import JOINTS, Appearance, caption, fit_pose, render

__all__ = ["PoseSource", "resample"]


def resample(points: NDArray[np.floating], frames: int) -> NDArray[np.float64]:
    """A sequence (n, J, 2) at `frames` evenly spaced times from its first to its last moment, linear in between."""
    times = np.linspace(0, len(points) - 1, frames)
    low = np.minimum(times.astype(int), max(len(points) - 2, 0))
    high = np.minimum(low + 1, len(points) - 1)
    part = (times - low)[:, None, None]
    return (1 - part) * points[low] + part * points[high]


class PoseSource(ClipSource):
    """Sequences of `path`; the labels `held_out_labels` are the test split, a share of the other sequences is val."""

    def __init__(self, path: Path, options: PrepareOptions, shape: ClipShape) -> None:
        self.name, self.path, self.options = str(path), path, options
        self.shape, self.side = shape, shape.square(str(path))
        self.sequences, self.labels = _read(path)
        unknown = sorted(set(options.held_out_labels) - set(self.labels))
        if unknown:
            known = ", ".join(sorted(set(self.labels)))
            raise DataError(f"held_out_labels: {path} has no {', '.join(unknown)}; its labels are {known}")
        self.index: dict[str, int] = {}

    def plan(self) -> Plan:
        """One sample a sequence, in the file's order."""
        samples, skipped = [], []
        for i, (label, points) in enumerate(zip(self.labels, self.sequences, strict=True)):
            place, missing = f"{self.path}[{i}]", ~np.isfinite(points).all(-1)
            if not len(points):
                skipped.append(Skipped(place, "a clip with zero frames: its length is 0"))
            elif missing.mean() > 0.5:
                skipped.append(Skipped(place, f"{missing.mean():.0%} of its joints are missing or not finite"))
            else:
                samples.append(self._sample(label, i, place))
        stamp = f"{self.path.stat().st_size}"
        return Plan(give_roles(samples, self.options.test_adapt), skipped, {s.id: stamp for s in samples})

    def _sample(self, label: str, i: int, place: str) -> Sample:
        o = self.options
        seed = int(draw("pose", o.seed, i) * 2**31)
        rng = np.random.default_rng(seed)
        text = caption(Appearance.random(rng), o.phrases.get(label, _verb(label)), rng)
        held = draw("held", o.seed, label, i) < o.held_out_fraction
        split = "test" if label in o.held_out_labels else "val" if held else "train"
        name = f"{slug(label)[:-7]}-{i:05d}"
        self.index[name] = i
        return Sample(
            name, text, split, label, "adapt", place, self.shape.frames, self.shape.size, self.shape.fps, seed
        )

    def load(self, samples: Sequence[Sample]) -> list[Loaded | DataError]:
        """Draws the samples together."""
        looks = [Appearance.random(np.random.default_rng(sample.seed)) for sample in samples]
        poses = []
        for sample, look in zip(samples, looks, strict=True):
            points = fit_pose(resample(self.sequences[self.index[sample.id]], self.shape.frames), look.height)
            poses.append(np.clip(points + look.camera(self.shape.frames)[:, None], 0, 1).astype(np.float32))
        video = render(np.stack(poses), looks, self.side)
        return [Loaded(frames, {"pose": pose}) for frames, pose in zip(video, poses, strict=True)]


def _verb(label: str) -> str:
    """ "wave" -> "waves", "catch" -> "catches", "brush hair" -> "brushes hair"."""
    first, _, rest = label.replace("_", " ").strip().partition(" ")
    ending = "es" if first.endswith(("s", "sh", "ch", "x", "z")) else "s"
    return f"{first}{ending} {rest}".strip()


def _read(path: Path) -> tuple[list[NDArray[np.floating]], list[str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            points, lengths, labels = (file[name] for name in ("keypoints", "lengths", "labels"))
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; it needs keypoints, lengths and labels") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an npz of plain arrays ({error})") from None
    if (
        points.dtype.kind not in "fiu"
        or points.shape[1:] != (len(JOINTS), 2)
        or lengths.dtype.kind not in "iu"
        or not lengths.ndim == labels.ndim == 1
    ):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (points, lengths, labels))
        raise DataError(
            f"{path}: keypoints are numbers (frames, {len(JOINTS)}, 2), lengths (sequences,) whole numbers of frames, "
            f"labels (sequences,) words; got {found}. The joints are {', '.join(JOINTS)}"
        )
    fit = len(labels) == len(lengths) > 0 and (lengths >= 0).all() and int(lengths.sum()) == len(points)
    if not fit:
        raise DataError(
            f"{path}: {len(labels)} labels and {len(lengths)} lengths that add up to {int(lengths.sum())} do not fit "
            f"{len(points)} frames of keypoints"
        )
    return np.split(points, np.cumsum(lengths)[:-1]), [str(label) for label in labels]
