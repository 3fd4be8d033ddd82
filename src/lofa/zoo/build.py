"""Builds the zoo of a prepared set, picked up where it was left."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import torch

from lofa.backbones import Backbone
from lofa.data import Sample, ZooStore, encoded_path, read_encoded, read_samples
from lofa.data.samples import LATENTS, find_encoded, prompt_of
from lofa.errors import DataError, LofaError
from lofa.paths import Location, Place, locate
from lofa.zoo.attempts import train_twice
from lofa.zoo.claim import claimed, remove_leftovers
from lofa.zoo.groups import plan_groups, shard_plan_path
from lofa.zoo.jobs import Clips, LoraJob, LoraResult
from lofa.zoo.options import ZooOptions
from lofa.zoo.plan import LoraPlan, plan_zoo
from lofa.zoo.progress import zoo_bar
from lofa.zoo.store import settled, write
from lofa.zoo.trainer import adapted_layers, loras_at_once

__all__ = ["ZooReport", "build_zoo", "lora_seed", "read_clips"]


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


def lora_seed(sample_id: str) -> int:
    """The seed of the LoRA anchored at a sample: its own, and the same in every set, batch and shard."""
    return int.from_bytes(blake2b(sample_id.encode(), digest_size=4).digest()) >> 1


def read_clips(set_dir: Location, samples: Sequence[Sample], backbone: Backbone) -> Clips:
    """Latents and text conditions of encoded samples of one size.

    Raises:
        DataError: one is missing, damaged or foreign, or of another size than the first.
    """
    encoded = [read_encoded(set_dir, sample, backbone, [LATENTS]) for sample in samples]
    latents = [one.latents for one in encoded if one.latents is not None]
    for sample, one in zip(samples, latents, strict=True):
        if one.shape != latents[0].shape:
            raise DataError(
                f"{encoded_path(set_dir, sample.id)}: latents {tuple(one.shape)}, but {samples[0].id!r} of the same "
                f"size has {tuple(latents[0].shape)}; delete the file and run `lofa prepare` again"
            )
    return Clips(torch.stack(latents), prompt_of(encoded))


def build_zoo(
    set_dir: Location, backbone: Backbone, options: ZooOptions, progress: bool = True, retry: bool = False
) -> ZooReport:
    """Trains the LoRAs of a set and writes zoo/<id>.safetensors and this shard's zoo/index-<i>-of-<n>.jsonl.

    Finished LoRAs are left as they are, those of other shards too. A group of LoRAs is trained at once, then written. A
    run that is killed, at any moment, and started again trains once more the group it was at, no other, and ends with
    the very files of a run that was not. What comes to nothing in two attempts is put in quarantine: a line in the
    index with the reason, and no file. A LoRA whose samples can't be read is left out and the others go on.

    Args:
        set_dir: a prepared set (holds samples.jsonl).
        backbone: the one it was prepared for.
        options: which LoRAs, and how they are trained.
        progress: show a bar.
        retry: train those in quarantine again.

    Raises:
        DataError: no such set, nothing to train on, samples encoded for another backbone, a zoo begun with another
            backbone or other options, or a shard that another process builds.
        WriteError: a full disk; what was written is whole.
        ConfigError: a layer kind that the backbone does not have.
        LofaError: a group that is too large for the GPU.
    """
    begun = time.perf_counter()
    set_dir = locate(set_dir)
    adapted_layers(backbone, options)
    store, shard = ZooStore(set_dir), options.shard_name
    part, parts = options.shard_index
    mine = {plan.anchor.id: plan for plan in plan_zoo(read_samples(set_dir), options)[part - 1 :: parts]}
    for plan in list(mine.values())[:1]:
        find_encoded(set_dir, plan.anchor, backbone)  # a foreign set is refused before anything is written
    with _memory_explained(backbone), claimed(store, shard):
        remove_leftovers(store, shard, [shard_plan_path(store, shard), *map(store.path, mine)])
        known = settled(store, backbone, options)
        done = {name: entry for name, entry in known.items() if entry.status == "ok" or not retry}
        groups = plan_groups(store, mine, done, backbone, options, partial(_at_once, set_dir, backbone, options))
        given_up = {name: done[name].reason for name in mine if name in done and done[name].status == "quarantined"}
        present = sum(name in done for name in mine) - len(given_up)
        unreadable: dict[str, str] = {}
        losses: list[tuple[float, float]] = []
        with zoo_bar(sum(map(len, groups)), options.steps, progress) as bar:
            for group in groups:
                results, damaged = _build_group(set_dir, group, done, backbone, options, bar.step)
                unreadable |= damaged
                given_up |= {one.id: one.failure or "" for one in results if one.adapter is None}
                losses += [(one.first_loss, one.final_loss) for one in results if one.adapter is not None]
                first, final = _means(losses)
                bar.batch(len(group), "" if first is None else f"loss {first:.4f} -> {final:.4f}")
    first, final = _means(losses)
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
    set_dir: Place,
    group: Sequence[LoraPlan],
    done: Collection[str],
    backbone: Backbone,
    options: ZooOptions,
    on_step: Callable[[int, int], None],
) -> tuple[list[LoraResult], dict[str, str]]:
    """Trains a group with all its members and writes those not done; their results, and why others have none."""
    jobs, damaged = _read_jobs(set_dir, group, backbone)
    lacking = {name: reason for name, reason in damaged.items() if name not in done}
    if jobs.keys() <= set(done):
        return [], lacking
    trained = {result.id: result for result in train_twice(backbone, list(jobs.values()), options, on_step)}
    new = [plan for plan in group if plan.anchor.id in trained.keys() - set(done)]
    for plan in new:
        write(ZooStore(set_dir), plan, trained[plan.anchor.id], jobs[plan.anchor.id].seed, backbone, options)
    return [trained[plan.anchor.id] for plan in new], lacking


def _read_jobs(
    set_dir: Place, plans: Iterable[LoraPlan], backbone: Backbone
) -> tuple[dict[str, LoraJob], dict[str, str]]:
    """The jobs of plans, and why others have none, both by id."""
    jobs: dict[str, LoraJob] = {}
    damaged: dict[str, str] = {}
    for plan in plans:
        name = plan.anchor.id
        try:
            held_out = read_clips(set_dir, plan.held_out, backbone) if plan.held_out else None
            jobs[name] = LoraJob(name, read_clips(set_dir, plan.clips, backbone), lora_seed(name), held_out)
        except DataError as error:
            damaged[name] = str(error)
    return jobs, damaged


def _at_once(set_dir: Place, backbone: Backbone, options: ZooOptions, alike: Sequence[LoraPlan]) -> int:
    """How many LoRAs of one size a group takes, judged by the first that can be read."""
    jobs = (job for plan in alike for job in _read_jobs(set_dir, [plan], backbone)[0].values())
    job = next(jobs, None)
    return 1 if job is None else loras_at_once(backbone, job, options)


@contextmanager
def _memory_explained(backbone: Backbone) -> Iterator[None]:
    """Says what to do (LofaError) where the block needs more memory than the GPU has."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise LofaError(
            f"the LoRAs trained at once don't fit in the memory of {backbone.device}: give a smaller zoo.batch or "
            "zoo.memory, zoo.accumulate=<parts of a step>, or backbone.gradient_checkpointing=true"
        ) from None


def _means(losses: Sequence[tuple[float, float]]) -> tuple[float, float] | tuple[None, None]:
    if not losses:
        return None, None
    first, final = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return first, final
