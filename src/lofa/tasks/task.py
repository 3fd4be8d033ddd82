"""A task names members of other tables and holds nothing of its own; conf/task has a file for each."""

from dataclasses import dataclass, field

from lofa.errors import ConfigError

__all__ = ["PROMPTS", "Task"]

PROMPTS = {
    "own": "the very prompt of the clip that is generated",
    "sibling": "the prompt of another clip of the same class",
}
"""Whose prompt an adapter is asked for with."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: names the runs.
        conditions: condition kinds that a predictor reads.
        metrics: keys of `lofa.metrics.METRICS`, as they are reported.
        prompt: whose prompt method `lofa` is asked with, a key of `PROMPTS`.
    """

    name: str = field(metadata={"help": "names the runs"})
    conditions: tuple[str, ...] = field(metadata={"help": "condition kinds that a predictor reads"})
    metrics: tuple[str, ...] = field(metadata={"help": "what is reported of generated clips"})
    prompt: str = field(default="own", metadata={"help": "whose prompt method lofa is asked with: own or sibling"})

    def __post_init__(self) -> None:
        for name in ("conditions", "metrics"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.prompt not in PROMPTS:
            raise ConfigError(f"task {self.name}: prompt={self.prompt!r} must be one of {', '.join(PROMPTS)}")
