"""Batches: every item once, one shape, the same for any number of processes; training goes on by number alone."""

from collections import Counter
from itertools import chain, islice

import pytest

from lofa.data.sampler import BatchKey, BatchPlan, EndlessBatches

BUCKETS = ["a"] * 11 + ["b"] * 5 + ["a"] * 2


def batched(items: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_every_item_once_and_no_mixed_batch(batch_size: int) -> None:
    plan = BatchPlan(BUCKETS, batch_size, seed=1)
    keys = plan.epoch(0)
    assert len(keys) == len(plan)
    assert sorted(item for key in keys for item in key.items) == list(range(len(BUCKETS)))
    assert all(len({BUCKETS[item] for item in key.items}) == 1 for key in keys)


def test_order_and_draws_depend_on_seed_and_epoch_alone() -> None:
    def keys(seed: int, epoch: int, shuffle: bool = True) -> list[BatchKey]:
        return BatchPlan(BUCKETS, 4, seed=seed, shuffle=shuffle).epoch(epoch)

    def order(*args: int) -> list[tuple[int, ...]]:
        return [key.items for key in keys(*args)]

    def draws(*args: int) -> set[tuple[int, ...]]:
        return {seed for key in keys(*args) for seed in (key.seed, *key.item_seeds)}

    assert keys(0, 3) == keys(0, 3)
    assert order(0, 3) != order(0, 4) and order(0, 3) != order(1, 3)
    assert not draws(0, 3) & (draws(0, 4) | draws(1, 3))
    assert keys(0, 3, shuffle=False) == keys(0, 4, shuffle=False)
    in_order = [items for bucket in "ab" for items in batched([i for i, own in enumerate(BUCKETS) if own == bucket], 4)]
    assert [key.items for key in keys(0, 3, shuffle=False)] == in_order


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batch_one_process_would_see(world: int) -> None:
    alone = BatchPlan(BUCKETS, 2 * world, seed=5)
    ranks = [BatchPlan(BUCKETS, 2, world=world, rank=rank, seed=5) for rank in range(world)]
    seen: Counter[int] = Counter()
    for whole, *parts in zip(alone.epoch(2), *(plan.epoch(2) for plan in ranks), strict=True):
        assert {part.seed for part in parts} == {whole.seed}
        together = [item for part in parts for item in part.items]
        seeds = dict(zip(whole.items, whole.item_seeds, strict=True))
        assert set(together) == set(whole.items) and len({len(part.items) for part in parts}) == 1
        assert all(seeds[i] == s for part in parts for i, s in zip(part.items, part.item_seeds, strict=True))
        seen.update(together)
    assert seen.keys() == set(range(len(BUCKETS)))
    assert sum(seen.values()) - len(BUCKETS) < world * 2  # at most world - 1 repeats a bucket


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [(1,), (7,), (12,), (5, 3), (1, 9, 2)])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_process_does_its_part_of_every_epoch(world: int, sizes: tuple[int, ...], batch_size: int) -> None:
    buckets = [bucket for bucket, size in enumerate(sizes) for _ in range(size)]
    ranks = [BatchPlan(buckets, batch_size, world=world, rank=rank, seed=3) for rank in range(world)]
    for epoch in range(2):
        steps = list(zip(*(plan.epoch(epoch) for plan in ranks), strict=True))  # as many batches on each process
        assert len(steps) == len(ranks[0])
        seen = Counter(item for step in steps for key in step for item in key.items)
        # each item once, but for those that fill up the last batch of a bucket
        assert seen.keys() == set(range(len(buckets)))
        assert sum(seen.values()) - len(buckets) <= (world - 1) * len(sizes)
        for step in steps:
            assert len({len(key.items) for key in step}) == len({key.seed for key in step}) == 1
            assert len({buckets[item] for key in step for item in key.items}) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_training_goes_on_at_any_batch_on_every_process(world: int) -> None:
    for rank in range(world):
        plan = BatchPlan(BUCKETS, 2, world=world, rank=rank, seed=5)
        count = 3 * len(plan)
        whole = list(islice(EndlessBatches(plan), count))
        assert whole == list(chain(plan.epoch(0), plan.epoch(1), plan.epoch(2)))
        for start in range(count):
            assert list(islice(EndlessBatches(plan, start), count - start)) == whole[start:]


def test_a_plan_without_items_has_no_batches() -> None:
    assert list(EndlessBatches(BatchPlan([], 2))) == BatchPlan([], 2).epoch(0) == []
