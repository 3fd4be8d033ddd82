"""Clips of the procedural world, by its own split of the action classes."""

from collections.abc import Sequence

from lofa.data.options import PrepareOptions
from lofa.data.samples import Sample
from lofa.data.source import ClipShape, ClipSource, Loaded, Plan, draw
from lofa.errors import DataError
from lofa.worlds import SPLITS, sample_batch, sample_motion

__all__ = ["WorldSource"]


class WorldSource(ClipSource):
    """Renders clips of each class; clips of a class differ in look, wording, timing and strength."""

    name = "world"

    def __init__(self, options: PrepareOptions, shape: ClipShape) -> None:
        self.options, self.shape, self.side = options, shape, shape.square(self.name)

    def _classes(self, split: str, count: int | None) -> list[str]:
        """The first `count` classes of a split in an order that looks random and never changes."""
        names = sorted((name for name, where in SPLITS.items() if where == split), key=lambda name: draw("class", name))
        if count is not None and not 0 <= count <= len(names):
            raise DataError(f"{split}_classes={count}: the world has {len(names)} {split} classes")
        return names[:count]

    def plan(self) -> Plan:
        """Clips of every class, class by class."""
        o = self.options
        wanted = (
            ("train", o.train_classes, o.train_clips, o.train_clips),
            ("val", o.val_classes, o.val_clips, (o.val_clips + 1) // 2),
            ("test", o.test_classes, o.test_adapt + o.test_score, o.test_adapt),
        )
        samples = [
            self._sample(split, action, i, "adapt" if i < adapt else "score")
            for split, classes, clips, adapt in wanted
            for action in self._classes(split, classes)
            for i in range(clips)
        ]
        return Plan(samples, [])

    def _sample(self, split: str, action: str, index: int, role: str) -> Sample:
        seed = int(draw("clip", self.options.seed, action, index) * 2**31)
        _, _, caption = sample_motion(action, seed, self.shape.frames)
        shape = self.shape
        name = f"{action}-{index:03d}"
        return Sample(name, caption, split, action, role, self.name, shape.frames, shape.size, shape.fps, seed)

    def load(self, samples: Sequence[Sample]) -> list[Loaded | DataError]:
        """Renders the samples together."""
        clips = sample_batch([s.group for s in samples], [s.seed for s in samples], self.shape.frames, self.side)
        return [Loaded(clip.frames, {"pose": clip.joints}) for clip in clips]
