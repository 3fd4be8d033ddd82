"""LoRAs that come to nothing are trained a second time, more slowly, and then given up."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lofa.backbones import Backbone
from lofa.zoo.jobs import LoraJob, LoraResult
from lofa.zoo.options import LoraOptions
from lofa.zoo.trainer import train_loras

__all__ = ["RETRY_RATE", "train_twice"]

RETRY_RATE = 0.3
"""Factor on the learning rate of the second attempt."""


def train_twice(
    backbone: Backbone, jobs: Sequence[LoraJob], options: LoraOptions, on_step: Callable[[int, int], None]
) -> list[LoraResult]:
    """Trains the jobs at once, and those that fail once more at once with `RETRY_RATE` times the learning rate.

    Failed are LoRAs that are not finite and those that don't lower the loss of their own clips. `failure` says why each
    attempt failed; `adapter` is None where both did.
    """
    results = [_judge(result) for result in train_loras(backbone, jobs, replace(options, batch=len(jobs)), on_step)]
    failed = [index for index, result in enumerate(results) if result.adapter is None]
    if failed:
        slower = replace(options, batch=len(failed), lr=RETRY_RATE * options.lr)
        for index, result in zip(failed, train_loras(backbone, [jobs[i] for i in failed], slower), strict=True):
            second = _judge(result)
            reasons = [f"with lr={one.lr:g} {one.failure}" for one in (results[index], second) if one.failure]
            results[index] = replace(second, failure="; ".join(reasons))
    return results


def _judge(result: LoraResult) -> LoraResult:
    """The result, without its adapter where that is of no use."""
    if result.adapter is None or result.final_loss < result.first_loss:
        return result
    losses = f"{result.first_loss:.4f} -> {result.final_loss:.4f}"
    return replace(result, adapter=None, failure=f"nothing was learned: the loss of its own clips went {losses}")
