"""What a source of samples gives: a plan first (captions, splits, no pixels), then what their files hold, a few at a
time.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.conditions import PROMPT, Condition
from lofa.data.options import PrepareOptions
from lofa.data.samples import Encoded, Sample
from lofa.errors import DataError, LofaError

__all__ = [
    "ClipShape", "ClipSource", "Loaded", "Made", "Plan", "Skipped", "Source", "draw", "draw_split", "give_roles",
    "slug",
]  # fmt: skip


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
        if self.frames < 2 or self.height != self.width:
            raise DataError(
                f"source={source} is drawn in square clips of at least 2 frames, got frames={self.frames}, "
                f"height={self.height}, width={self.width}"
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
class Made:
    """What goes into the files of a sample."""

    encoded: Encoded
    fps: float
    """the clip's true rate"""
    lora: Adapter | None = None
    """where the source brings one"""


class Source(ABC):
    """Where samples come from."""

    name: str
    """written into the set's description"""

    @abstractmethod
    def plan(self) -> Plan:
        """Samples in a fixed order; the same source gives the same plan."""

    @abstractmethod
    def make(self, samples: Sequence[Sample], backbone: Backbone) -> Iterator[Made | LofaError]:
        """What becomes of each sample of the plan, or why nothing does."""


@dataclass(frozen=True)
class Loaded:
    """The pixels of one sample, and what it has of conditions beside its caption."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3)"""
    conditions: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """kind -> (n, ...): pose (T, J, 2), image coordinates in [0, 1]"""
    fps: float | None = None
    """the clip's true rate where it differs from the plan's"""


class ClipSource(Source):
    """A source of pixels and captions, which the backbone encodes."""

    @abstractmethod
    def load(self, samples: Sequence[Sample]) -> list[Loaded | DataError]:
        """Pixels of each sample of the plan, or why it has none; never raises for a broken clip."""

    def make(self, samples: Sequence[Sample], backbone: Backbone) -> Iterator[Made | LofaError]:
        """Encodes the samples that can be read, together."""
        prompts = _encode_prompts(backbone, list(dict.fromkeys(sample.caption for sample in samples)))
        readable = [sample for sample in samples if isinstance(prompts[sample.caption], Condition)]
        loaded = {one.id: clip for one, clip in zip(readable, self.load(readable), strict=True)} if readable else {}
        frames = [torch.from_numpy(clip.frames) for clip in loaded.values() if isinstance(clip, Loaded)]
        latents = iter(backbone.encode_video(torch.stack(frames).to(backbone.device)).cpu() if frames else ())
        for sample in samples:
            prompt, clip = prompts[sample.caption], loaded.get(sample.id)
            if isinstance(prompt, LofaError):
                yield prompt
            elif isinstance(clip, Loaded):
                kinds = {kind: torch.from_numpy(row) for kind, row in clip.conditions.items()}
                extras = {name: value[0] for name, value in prompt.extras.items()}
                encoded = Encoded(next(latents), {PROMPT.name: prompt.row(0), **kinds}, extras)
                yield Made(encoded, sample.fps if clip.fps is None else clip.fps)
            elif clip is not None:
                yield clip


def _encode_prompts(backbone: Backbone, captions: list[str]) -> dict[str, Condition | LofaError]:
    """Each caption's condition, one row, or why it has none; one by one where a batch is refused."""
    try:
        condition = backbone.encode_prompt(captions).to("cpu")
    except LofaError as error:
        if len(captions) == 1:
            return {captions[0]: error}
        return {caption: _encode_prompts(backbone, [caption])[caption] for caption in captions}
    return {caption: condition[i : i + 1] for i, caption in enumerate(captions)}


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
    sizes, seen = Counter(sample.group for sample in samples), Counter[str]()
    done = []
    for sample in samples:
        seen[sample.group] += 1
        rank, first = seen[sample.group], min(adapt, max(1, sizes[sample.group] // 2))
        done.append(replace(sample, role="score" if sample.split == "test" and rank > first else "adapt"))
    return done
