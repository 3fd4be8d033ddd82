"""Builds the zoo of a prepared set, picked up where it was left."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lofa.backbones import Backbone
from lofa.data import ZooStore, read_samples
from lofa.data.samples import find_encoded
from lofa.errors import DataError
from lofa.files import remove_temporaries
from lofa.paths import Location, Place, locate
from lofa.zoo.jobs import LoraJob, LoraResult, lora_seed, read_clips
from lofa.zoo.options import LoraOptions, ZooOptions
from lofa.zoo.plan import LoraPlan, plan_groups, plan_zoo, shard_plan_path
from lofa.zoo.store import claimed, settled, write
from lofa.zoo.trainer import adapted_layers, loras_at_once, train_loras

__all__ = ["ZooReport", "build_zoo"]

RETRY_RATE = 0.3
"""Factor on the learning rate of the second attempt."""


@dataclass(frozen=True)
class ZooReport:
    """What a run has done.

    Attributes:
        trained: LoRAs written.
        present: LoRAs of this shard that were there before.
        quarantined: (id, reason) of LoRAs that two attempts could not train, in this run or before.
        unreadable: (id, reason) of LoRAs whose samples can't be read.
        first_loss, final_loss: means over the trained, without and with each LoRA; None where none was trained.
        seconds: wall time, s.
    """

    trained: int
    present: int
    quarantined: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]
    first_loss: float | None
    final_loss: float | None
    seconds: float

    @property
    def loras_per_hour(self) -> float:
        """Speed of this run."""
        return 3600 * self.trained / self.seconds


def build_zoo(
    set_dir: Location, backbone: Backbone, options: ZooOptions, progress: bool = True, retry: bool = False
) -> ZooReport:
    """Trains the LoRAs of a set and writes zoo/<id>.safetensors and this shard's zoo/index-<i>-of-<n>.jsonl.

    Finished LoRAs are left as they are, those of other shards too. A group of LoRAs is trained at once, then written. A
    run that is killed, at any moment, and started again trains once more the group it was at, no other, and ends with
    the very files of a run that was not. What comes to nothing in two attempts is put in quarantine: a line in the
    index with the reason, and no file. A LoRA whose samples can't be read is left out and the others go on.

    Args:
        set_dir: a set prepared for the backbone.
        progress: show a bar.
        retry: train those in quarantine again.

    Raises:
        DataError: no such set, nothing to train on, samples encoded for another backbone, a zoo begun with another
            backbone or other options, or a shard that another process builds.
        WriteError: a full disk; what was written is whole.
        ConfigError: a layer kind that the backbone does not have.
    """
    begun = time.perf_counter()
    set_dir = locate(set_dir)
    adapted_layers(backbone, options)
    store, shard = ZooStore(set_dir), options.shard_name
    part, parts = options.shard_index
    mine = {plan.anchor.id: plan for plan in plan_zoo(read_samples(set_dir), options)[part - 1 :: parts]}
    for plan in list(mine.values())[:1]:
        find_encoded(set_dir, plan.anchor, backbone)  # a foreign set is refused before anything is written
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, disable=not progress)
    with claimed(store, shard):
        own = [shard_plan_path(store, shard), *map(store.path, mine)]
        remove_temporaries(store.folder, lambda: not store.living(shard), {path.name for path in own})
        known = settled(store, backbone, options)
        done = {name: entry for name, entry in known.items() if entry.status == "ok" or not retry}
        groups = plan_groups(store, mine, done, backbone, options, partial(_at_once, set_dir, backbone, options))
        given_up = {name: done[name].reason for name in mine if name in done and done[name].status == "quarantined"}
        present = sum(name in done for name in mine) - len(given_up)
        unreadable: dict[str, str] = {}
        losses: list[tuple[float, float]] = []
        task, finished = bar.add_task("LoRAs", total=sum(map(len, groups))), 0

        def on_step(loras: int, step: int) -> None:
            bar.advance(task, loras / options.steps)

        with bar:
            for group in groups:
                results, damaged = _build_group(store, group, done, backbone, options, on_step)
                unreadable |= damaged
                given_up |= {one.id: one.failure or "" for one in results if one.adapter is None}
                losses += [(one.first_loss, one.final_loss) for one in results if one.adapter is not None]
                finished += len(group)
                bar.update(task, completed=finished)
    first, final = (sum(column) / len(losses) for column in zip(*losses, strict=True)) if losses else (None, None)
    return ZooReport(
        trained=len(losses),
        present=present,
        quarantined=tuple(given_up.items()),
        unreadable=tuple(unreadable.items()),
        first_loss=first,
        final_loss=final,
        seconds=time.perf_counter() - begun,
    )


def _build_group(
    store: ZooStore,
    group: Sequence[LoraPlan],
    done: Collection[str],
    backbone: Backbone,
    options: ZooOptions,
    on_step: Callable[[int, int], None],
) -> tuple[list[LoraResult], dict[str, str]]:
    """Trains a group with all its members and writes those not done; their results, and why others have none."""
    ready, damaged = [], {}
    for plan in group:
        try:
            ready.append((plan, _read_job(store.set_dir, plan, backbone)))
        except DataError as error:
            damaged[plan.anchor.id] = str(error)
    results = []
    if any(job.id not in done for _, job in ready):
        trained = _train_twice(backbone, [job for _, job in ready], options, on_step)
        for (plan, job), result in zip(ready, trained, strict=True):
            if job.id not in done:
                write(store, plan, result, backbone, options)
                results.append(result)
    return results, {name: reason for name, reason in damaged.items() if name not in done}


def _train_twice(
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


def _read_job(set_dir: Place, plan: LoraPlan, backbone: Backbone) -> LoraJob:
    """The job of a plan (DataError: a sample can't be read)."""
    held_out = read_clips(set_dir, plan.held_out, backbone) if plan.held_out else None
    return LoraJob(plan.anchor.id, read_clips(set_dir, plan.clips, backbone), lora_seed(plan.anchor.id), held_out)


def _at_once(set_dir: Place, backbone: Backbone, options: ZooOptions, alike: Sequence[LoraPlan]) -> int:
    """How many LoRAs of one size a group takes, judged by the first that can be read."""
    for plan in alike:
        with suppress(DataError):
            return loras_at_once(backbone, _read_job(set_dir, plan, backbone), options)
    return 1
