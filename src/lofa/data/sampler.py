"""Which items make a batch: all of one shape, in an order that seed and epoch alone decide, shared out among processes.

Training has no end of its own: batch number n of a run is batch n mod N of epoch n div N, where N batches hold every
item once. So the number alone says what comes next, and a resumed run goes on with it.
A global batch of `batch_size * world` items is cut into one part a process, so W processes with batch size b see what
one process with batch size W b sees.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from torch.utils.data import Sampler

__all__ = ["BatchKey", "BatchPlan", "EndlessBatches"]


@dataclass(frozen=True)
class BatchKey:
    """What a dataset needs to make one batch."""

    items: tuple[int, ...]
    seed: tuple[int, ...]
    """decides the layers drawn; the same on every process"""
    item_seeds: tuple[tuple[int, ...], ...]
    """decide what is drawn for each item; independent of the batch it is in"""


class BatchPlan:
    """The batches of each epoch, as one process of several sees them.

    Args:
        buckets: the bucket of each item (its latent shape); items of different buckets never meet
        batch_size: items of a batch on one process
        world: number of processes
        rank: this process
        shuffle: another order and other draws each epoch; without it every epoch is the same
        seed: of order and draws
    """

    def __init__(
        self,
        buckets: Sequence[Hashable],
        batch_size: int,
        *,
        world: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self._by_bucket: dict[Hashable, list[int]] = {}
        for item, bucket in enumerate(buckets):
            self._by_bucket.setdefault(bucket, []).append(item)
        self._batch_size, self._world, self._rank = batch_size, world, rank
        self._shuffle, self._seed = shuffle, seed

    def __len__(self) -> int:
        """Batches of an epoch, on each process."""
        whole = self._batch_size * self._world
        return sum(-(-len(items) // whole) for items in self._by_bucket.values())

    def epoch(self, number: int) -> list[BatchKey]:
        """The batches of an epoch, counted from 0."""
        epoch = number if self._shuffle else 0
        rng = np.random.default_rng((self._seed, epoch))
        whole = self._batch_size * self._world
        batches: list[list[int]] = []
        for items in self._by_bucket.values():
            order = [items[i] for i in rng.permutation(len(items))] if self._shuffle else items
            batches += [order[start : start + whole] for start in range(0, len(order), whole)]
        turns = rng.permutation(len(batches)).tolist() if self._shuffle else range(len(batches))
        return [self._key(batches[turn], epoch, place) for place, turn in enumerate(turns)]

    def _key(self, batch: list[int], epoch: int, place: int) -> BatchKey:
        # every process needs as many items: the first ones come again
        short = -len(batch) % self._world
        own = tuple((batch + batch * short)[: len(batch) + short][self._rank :: self._world])
        return BatchKey(own, (self._seed, epoch, place), tuple((self._seed, epoch, item) for item in own))


class EndlessBatches(Sampler[BatchKey]):
    """Epoch after epoch of a plan, from batch number `start` of the run on."""

    def __init__(self, plan: BatchPlan, start: int = 0) -> None:
        self._plan, self._start = plan, start

    def __iter__(self) -> Iterator[BatchKey]:
        if not len(self._plan):
            return
        first, place = divmod(self._start, len(self._plan))
        for epoch in count(first):
            yield from self._plan.epoch(epoch)[place if epoch == first else 0 :]
