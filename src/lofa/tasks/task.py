"""A task names members of other tables and holds nothing of its own; conf/task has a file for each."""

from dataclasses import dataclass

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
    conditions: tuple[str, ...] = option(REQUIRED, "condition kinds that a predictor reads")
    metrics: tuple[str, ...] = option(REQUIRED, "keys of lofa.metrics.METRICS, as they are reported")
    prompt: str = option("own", "whose prompt method lofa is asked with: own or sibling", among=tuple(PROMPTS))
