"""Builds the zoo of a prepared set, picked up where it was left."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.data import Sample, ZooStore, read_encoded, read_samples
from lofa.data.samples import LATENTS
from lofa.stores import Location, Place, locate
from lofa.zoo.jobs import Clips, LoraJob
from lofa.zoo.options import ZooOptions
from lofa.zoo.plan import LoraPlan, plan_zoo
from lofa.zoo.progress import zoo_bar
from lofa.zoo.store import finished, write
from lofa.zoo.trainer import adapted_layers, train_loras

__all__ = ["ZooReport", "build_zoo", "lora_seed", "read_clips"]


@dataclass(frozen=True)
class ZooReport:
    """What a run has done.

    Attributes:
        trained: LoRAs written.
        present: LoRAs of this shard that were there before.
        failed: (id, reason) of LoRAs that could not be trained.
        first_loss, final_loss: means over the trained, without and with each LoRA; None where none was trained.
        seconds: wall time, s.
    """

    trained: int
    present: int
    failed: tuple[tuple[str, str], ...]
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
    """Latents and text conditions of encoded samples of one size (DataError where one is missing or foreign)."""
    encoded = [read_encoded(set_dir, sample, backbone.fingerprint, [LATENTS]) for sample in samples]
    latents = torch.stack([one.latents for one in encoded if one.latents is not None])
    return Clips(latents, Condition.from_rows([one.text for one in encoded]))


def build_zoo(set_dir: Location, backbone: Backbone, options: ZooOptions, progress: bool = True) -> ZooReport:
    """Trains the LoRAs of a set and writes zoo/<id>.safetensors and this shard's zoo/index-<i>-of-<n>.jsonl.

    Finished LoRAs are skipped, those of other shards too; failed ones are tried again. A LoRA is written as soon as its
    batch is trained.

    Args:
        set_dir: a prepared set (holds samples.jsonl).
        backbone: the one it was prepared for.
        options: which LoRAs, and how they are trained.
        progress: show a bar.

    Raises:
        DataError: no such set, nothing to train on, samples encoded for another backbone, or a zoo begun with another
            backbone or other options.
        ConfigError: a layer kind that the backbone does not have.
    """
    begun = time.perf_counter()
    set_dir = locate(set_dir)
    adapted_layers(backbone, options)
    store = ZooStore(set_dir)
    part, parts = options.shard_index
    mine = plan_zoo(read_samples(set_dir), options)[part - 1 :: parts]
    done = finished(store, backbone, options)
    todo = [plan for plan in mine if plan.anchor.id not in done]
    failed: list[tuple[str, str]] = []
    losses: list[tuple[float, float]] = []
    with zoo_bar(len(todo), options.steps, progress) as bar:
        for batch in _batches(todo, options.batch):
            jobs = [_job(set_dir, plan, backbone) for plan in batch]
            for plan, job, result in zip(batch, jobs, train_loras(backbone, jobs, options, bar.step), strict=True):
                write(store, plan, result, job.seed, backbone, options)
                if result.failure is None:
                    losses.append((result.first_loss, result.final_loss))
                else:
                    failed.append((result.id, result.failure))
            first, final = _means(losses)
            bar.batch(len(batch), "" if first is None else f"loss {first:.4f} -> {final:.4f}")
    first, final = _means(losses)
    return ZooReport(len(losses), len(mine) - len(todo), tuple(failed), first, final, time.perf_counter() - begun)


def _batches(plans: Sequence[LoraPlan], size: int) -> Iterator[list[LoraPlan]]:
    """Plans to train at once: clips of one size, all or none with held-out clips, so that they make one batch."""
    groups: dict[tuple[object, ...], list[LoraPlan]] = {}
    for plan in plans:
        groups.setdefault((plan.anchor.frames, plan.anchor.size, bool(plan.held_out)), []).append(plan)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _job(set_dir: Place, plan: LoraPlan, backbone: Backbone) -> LoraJob:
    held_out = read_clips(set_dir, plan.held_out, backbone) if plan.held_out else None
    return LoraJob(plan.anchor.id, read_clips(set_dir, plan.clips, backbone), lora_seed(plan.anchor.id), held_out)


def _means(losses: Sequence[tuple[float, float]]) -> tuple[float, float] | tuple[None, None]:
    if not losses:
        return None, None
    first, final = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return first, final
