"""A task names members of other tables and holds nothing of its own; conf/task has a file for each."""

from dataclasses import dataclass
from typing import Any

from lofa.options import REQUIRED, Options, option

__all__ = ["PROMPTS", "Task"]

PROMPTS = {
    "own": "the very prompt of the clip that is generated",
    "sibling": "the prompt of another clip of the same class",
}
"""Whose prompt an adapter is asked for with."""


@dataclass(frozen=True)
class Task(Options):
    """One task."""

    name: str = option(REQUIRED, "names the runs")
    conditions: dict[str, Any] = option(
        {},
        "kind (text, pose) -> constructor values of its encoder, and _target_ for a class of one's own; "
        "+task.conditions.<kind>={} adds one",
    )
    metrics: tuple[str, ...] = option((), "what eval reports: names in lofa.metrics.METRICS")
    prompt: str = option(
        "own",
        "whose prompt method lofa is asked with: own (that of the generated clip) or sibling",
        among=tuple(PROMPTS),
    )
