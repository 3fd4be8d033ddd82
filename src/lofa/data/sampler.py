"""Which items make a batch: all of one shape, in an order that seed and epoch alone decide, shared out among processes.

Lightning leaves a `DistributedSampler` alone and tells it the epoch; this one yields whole batches (a DataLoader takes
it as `sampler` with `batch_size=None`). A global batch of `batch_size * world` items is cut into one part a process, so
W processes with batch size b see what one process with batch size W b sees.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DistributedSampler

__all__ = ["BatchKey", "BucketSampler"]


@dataclass(frozen=True)
class BatchKey:
    """What a dataset needs to make one batch."""

    items: tuple[int, ...]
    seed: tuple[int, ...]
    """decides the layers drawn; the same on every process"""
    item_seeds: tuple[tuple[int, ...], ...]
    """decide what is drawn for each item; independent of the batch it is in"""


class BucketSampler(DistributedSampler[BatchKey]):
    """Yields `BatchKey`s of items that share a bucket.

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
        if batch_size < 1 or not 0 <= rank < world:
            raise ValueError(
                f"a batch needs at least one item and a rank below {world}, got batch_size={batch_size}, rank={rank}"
            )
        self.by_bucket: dict[Hashable, list[int]] = {}
        for item, bucket in enumerate(buckets):
            self.by_bucket.setdefault(bucket, []).append(item)
        self.batch_size, self.num_replicas, self.rank, self.shuffle, self.seed = batch_size, world, rank, shuffle, seed
        self.epoch = 0
        self.skip = 0
        """batches of the next pass that are left out, because they were seen before a resume"""

    def __len__(self) -> int:
        whole = self.batch_size * self.num_replicas
        return sum(-(-len(items) // whole) for items in self.by_bucket.values())

    def __iter__(self) -> Iterator[BatchKey]:
        epoch = self.epoch if self.shuffle else 0
        rng = np.random.default_rng((self.seed, epoch))
        whole = self.batch_size * self.num_replicas
        batches: list[list[int]] = []
        for items in self.by_bucket.values():
            order = [items[i] for i in rng.permutation(len(items))] if self.shuffle else items
            batches += [order[start : start + whole] for start in range(0, len(order), whole)]
        turns = rng.permutation(len(batches)).tolist() if self.shuffle else range(len(batches))
        skip, self.skip = self.skip, 0
        for number, turn in enumerate(turns):
            if number < skip:
                continue
            batch = batches[turn]
            # every process needs as many items: the first ones come again
            short = -len(batch) % self.num_replicas
            batch = (batch + batch * short)[: len(batch) + short]
            own = tuple(batch[self.rank :: self.num_replicas])
            yield BatchKey(own, (self.seed, epoch, number), tuple((self.seed, epoch, item) for item in own))
