"""Which LoRAs a zoo holds, which clips each is trained on, and which of a shard are trained together.

The same LoRA in a batch of other members is rounded differently. So the groups are fixed and written down before the
first of them is trained; a run that was interrupted trains those that it had planned, with all their members, and its
files are byte for byte those of a run that was not.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lofa.backbones import Backbone
from lofa.data import ZooStore
from lofa.data.samples import LATENTS, Sample
from lofa.errors import DataError
from lofa.files import read_json, write_json
from lofa.paths import Place, inside
from lofa.zoo.options import ZooOptions

__all__ = ["LoraPlan", "plan_groups", "plan_zoo", "shard_plan_path"]


@dataclass(frozen=True)
class LoraPlan:
    """One LoRA: its clips, the anchor first, and the clips kept aside to choose its best step."""

    clips: tuple[Sample, ...]
    held_out: tuple[Sample, ...]

    @property
    def anchor(self) -> Sample:
        """The sample whose id and caption the LoRA carries."""
        return self.clips[0]


def plan_zoo(samples: Sequence[Sample], options: ZooOptions) -> list[LoraPlan]:
    """The LoRAs of all shards, in the order of the samples.

    Clips come from the anchor's own split and group, in its size; clips of the role "score" are never touched. At most
    half of an anchor's siblings are held out, so that a small group still has some to train on.

    Raises:
        DataError: the set has no sample to train on in the splits asked for.
    """
    pools: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.split in options.splits and sample.role == "adapt" and LATENTS in sample.encoded:
            pools.setdefault((sample.split, sample.group), []).append(sample)
    if not pools:
        found = Counter(sample.split for sample in samples)
        held = ", ".join(f"{split} {count}" for split, count in found.items()) or "none"
        raise DataError(
            f"nothing to train LoRAs on: no encoded clip in splits={','.join(options.splits)} may be adapted to; "
            f"samples by split: {held}. Name another split, or run `lofa prepare` again"
        )
    return [plan for pool in pools.values() for plan in _plan_group(pool, options)]


def _plan_group(pool: list[Sample], options: ZooOptions) -> Iterator[LoraPlan]:
    for index, anchor in enumerate(pool[: options.per_group or len(pool)]):
        around = pool[index + 1 :] + pool[:index]
        others = [sample for sample in around if (sample.frames, sample.size) == (anchor.frames, anchor.size)]
        held = min(options.held_out, len(others) // 2)
        training = others[: len(others) - held]
        if options.siblings:
            training = training[: options.siblings - 1]
        yield LoraPlan((anchor, *training), tuple(others[len(others) - held :]))


def shard_plan_path(store: ZooStore, shard: str) -> Place:
    """Where the plan of a shard lies: what it was begun with, and its groups as lists of sample ids."""
    return store.folder / f"plan-{shard}.json"


def plan_groups(
    store: ZooStore,
    plans: Mapping[str, LoraPlan],
    settled: Collection[str],
    backbone: Backbone,
    options: ZooOptions,
    at_once: Callable[[Sequence[LoraPlan]], int],
) -> list[list[LoraPlan]]:
    """The groups of a shard with LoRAs that are not settled, in the order of training; a new plan is written.

    A group planned before stays as it is, unless none of its LoRAs is settled and other batches are asked for now.

    Args:
        plans: all LoRAs of the shard, by id.
        settled: ids of those that need no training.
        at_once: how many of these LoRAs, alike in size, a group takes.

    Raises:
        DataError: the plan written before is damaged.
    """
    path = shard_plan_path(store, options.shard_name)
    begun = {
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "recipe": options.recipe(),
        "cut": {key: getattr(options, key) for key in ("batch", "memory", "accumulate")},
    }
    groups: list[list[str]] = []
    if path.is_file():
        before = read_json(path)
        if before.keys() != {*begun, "groups"}:
            raise DataError(f"{path}: not the plan of a shard; delete it, its groups are planned anew")
        if backbone.accepts(before["backbone_fingerprint"]):
            untouched = before["cut"] == begun["cut"] and before["recipe"] == begun["recipe"]
            kept = (group for group in before["groups"] if plans.keys() >= set(group))
            groups += [group for group in kept if untouched or not set(group).isdisjoint(settled)]
    planned = {name for group in groups for name in group}
    new = [plan for name, plan in plans.items() if name not in planned and name not in settled]
    groups += [[plan.anchor.id for plan in group] for group in _divide(new, at_once)]
    if new:
        write_json(inside(store.set_dir, path), {**begun, "groups": groups})
    return [[plans[name] for name in group] for group in groups if not set(group) <= set(settled)]


def _divide(plans: Iterable[LoraPlan], at_once: Callable[[Sequence[LoraPlan]], int]) -> Iterator[Sequence[LoraPlan]]:
    """Plans to train together: clips of one size, all or none with held-out clips, so that they make one batch."""
    alike: dict[tuple[object, ...], list[LoraPlan]] = {}
    for plan in plans:
        alike.setdefault((plan.anchor.frames, plan.anchor.size, bool(plan.held_out)), []).append(plan)
    for members in alike.values():
        size = at_once(members)
        for start in range(0, len(members), size):
            yield members[start : start + size]
