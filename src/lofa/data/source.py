"""What a source of clips gives: a plan of samples first (captions, splits, no pixels), then pixels, a few at a time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lofa.data.options import PrepareOptions
from lofa.data.samples import Sample
from lofa.errors import DataError, LofaError

__all__ = [
    "ClipShape",
    "Loaded",
    "Plan",
    "Skipped",
    "Source",
    "draw",
    "draw_split",
    "give_roles",
    "slug",
]


@dataclass(frozen=True)
class ClipShape:
    """What every clip of a set is cut to."""

    frames: int
    height: int
    width: int
    fps: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.height, self.width)

    def square(self, source: str) -> int:
        """The side of a clip that is drawn (DataError where height and width differ, or it doesn't move)."""
        if self.frames < 2:
            raise DataError(f"source={source} is drawn in clips of at least 2 frames, got frames={self.frames}")
        if self.height != self.width:
            raise DataError(
                f"source={source} is drawn in square clips, got height={self.height} and "
                f"width={self.width}; give both one value"
            )
        return self.height


@dataclass(frozen=True)
class Skipped:
    """A file or sequence that gives no sample, and why."""

    source: str
    reason: str

    @classmethod
    def because(cls, error: LofaError, source: str) -> "Skipped":
        """Skipped for an error, whose message need not name the source a second time."""
        return cls(source, str(error).removeprefix(f"{source}: "))


@dataclass(frozen=True)
class Plan:
    """What a source has to give."""

    samples: list[Sample]
    skipped: list[Skipped]
    stamps: dict[str, str] = field(default_factory=dict)
    """sample id -> what changes when the sample's file changes"""


@dataclass(frozen=True)
class Loaded:
    """The pixels of one sample, and what it has of conditions beside its caption."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3)"""
    conditions: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """kind -> (n, ...): pose (T, J, 2), image coordinates in [0, 1]"""
    fps: float | None = None
    """the clip's true rate where it differs from the plan's"""


class Source(Protocol):
    """Where clips come from."""

    name: str
    """written into the set's description"""

    def plan(self) -> Plan:
        """Samples in a fixed order; the same source gives the same plan."""

    def load(self, samples: Sequence[Sample]) -> list[Loaded | DataError]:
        """Pixels of each sample of the plan, or why it has none; never raises for a broken clip."""


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def draw_split(group: str, options: PrepareOptions) -> str:
    """The split of a group, by hash of its name and the seed: all its clips go together."""
    place = draw("split", options.seed, group)
    if place < options.test_fraction:
        return "test"
    return "val" if place < options.test_fraction + options.val_fraction else "train"


def slug(text: str) -> str:
    """A short file name without surprises that tells of `text` and belongs to it alone."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    words = "-".join(part for part in plain.split("-") if part)[:60]
    return f"{words or 'clip'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def give_roles(samples: Sequence[Sample], adapt: int) -> list[Sample]:
    """Samples with their roles: of a test group the first `adapt` are seen (of a small one half), the rest score."""
    sizes: dict[str, int] = {}
    for sample in samples:
        sizes[sample.group] = sizes.get(sample.group, 0) + 1
    seen: dict[str, int] = {}
    done = []
    for sample in samples:
        rank = seen[sample.group] = seen.get(sample.group, 0) + 1
        size = sizes[sample.group]
        first = min(adapt, max(1, size // 2))
        done.append(replace(sample, role="score" if sample.split == "test" and rank > first else "adapt"))
    return done
