"""Which LoRAs of a shard are trained together: fixed and written down before the first of them is trained.

The same LoRA in a batch of other members is rounded differently. A run that was interrupted therefore trains the groups
that it had planned, with all their members, and its files are byte for byte those of a run that was not.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lofa.backbones import Backbone
from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.files import read_json, write_json
from lofa.paths import Place, inside
from lofa.zoo.options import ZooOptions
from lofa.zoo.plan import LoraPlan

__all__ = ["ShardPlan", "plan_groups", "read_shard_plan", "shard_plan_path"]


@dataclass(frozen=True)
class ShardPlan:
    """zoo/plan-<shard>.json: what the shard was begun with, and its groups as lists of sample ids."""

    backbone: str
    backbone_fingerprint: str
    recipe: dict[str, Any]
    cut: dict[str, Any]
    """what was asked of the size of batches"""
    groups: list[list[str]]


def shard_plan_path(store: ZooStore, shard: str) -> Place:
    """Where the plan of a shard lies."""
    return store.folder / f"plan-{shard}.json"


def read_shard_plan(store: ZooStore, shard: str) -> ShardPlan | None:
    """The plan of a shard, None where there is none.

    Raises:
        DataError: the file is damaged.
    """
    path = shard_plan_path(store, shard)
    if not path.is_file():
        return None
    try:
        return ShardPlan(**read_json(path))
    except TypeError:
        raise DataError(f"{path}: not the plan of a shard; delete it, its groups are planned anew") from None


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
    """
    cut = {key: getattr(options, key) for key in ("batch", "memory", "accumulate")}
    wanted = ShardPlan(backbone.name, backbone.fingerprint, options.recipe(), cut, [])
    before = read_shard_plan(store, options.shard_name)
    if before is not None and backbone.accepts(before.backbone_fingerprint):
        untouched = before.cut == cut and before.recipe == wanted.recipe
        kept = (group for group in before.groups if plans.keys() >= set(group))
        wanted.groups.extend(group for group in kept if untouched or not set(group).isdisjoint(settled))
    planned = {name for group in wanted.groups for name in group}
    new = [plan for name, plan in plans.items() if name not in planned and name not in settled]
    wanted.groups.extend([plan.anchor.id for plan in group] for group in _divide(new, at_once))
    if new:
        write_json(inside(store.set_dir, shard_plan_path(store, options.shard_name)), asdict(wanted))
    return [[plans[name] for name in group] for group in wanted.groups if not set(group) <= set(settled)]


def _divide(plans: Iterable[LoraPlan], at_once: Callable[[Sequence[LoraPlan]], int]) -> Iterator[Sequence[LoraPlan]]:
    """Plans to train together: clips of one size, all or none with held-out clips, so that they make one batch."""
    alike: dict[tuple[object, ...], list[LoraPlan]] = {}
    for plan in plans:
        alike.setdefault((plan.anchor.frames, plan.anchor.size, bool(plan.held_out)), []).append(plan)
    for members in alike.values():
        size = at_once(members)
        for start in range(0, len(members), size):
            yield members[start : start + size]
