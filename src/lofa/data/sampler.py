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


@dataclass
class BatchPlan:
    """The batches of each epoch, as one process of several sees them."""

    buckets: Sequence[Hashable]
    """the bucket of each item (its latent shape); items of different buckets never meet"""
    batch_size: int
    """items of a batch on one process"""
    world: int = 1
    """processes"""
    rank: int = 0
    """of this one"""
    shuffle: bool = True
    """another order and other draws each epoch; without it every epoch is the same"""
    seed: int = 0
    """of order and draws"""

    def __post_init__(self) -> None:
        self._by_bucket: dict[Hashable, list[int]] = {}
        for item, bucket in enumerate(self.buckets):
            self._by_bucket.setdefault(bucket, []).append(item)
        self._whole = self.batch_size * self.world

    def __len__(self) -> int:
        """Batches of an epoch, on each process."""
        return sum(-(-len(items) // self._whole) for items in self._by_bucket.values())

    def epoch(self, number: int) -> list[BatchKey]:
        """The batches of an epoch, counted from 0."""
        epoch = number if self.shuffle else 0
        rng = np.random.default_rng((self.seed, epoch))
        batches: list[list[int]] = []
        for items in self._by_bucket.values():
            order = [items[i] for i in rng.permutation(len(items))] if self.shuffle else items
            batches += [order[start : start + self._whole] for start in range(0, len(order), self._whole)]
        turns = rng.permutation(len(batches)).tolist() if self.shuffle else range(len(batches))
        return [self._key(batches[turn], epoch, place) for place, turn in enumerate(turns)]

    def _key(self, batch: list[int], epoch: int, place: int) -> BatchKey:
        # every process needs as many items: the first ones come again
        short = -len(batch) % self.world
        own = tuple((batch + batch * short)[: len(batch) + short][self.rank :: self.world])
        return BatchKey(own, (self.seed, epoch, place), tuple((self.seed, epoch, item) for item in own))


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
