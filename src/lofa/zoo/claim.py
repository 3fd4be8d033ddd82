"""A shard of a zoo belongs to one process at a time.

The process holds a lock on the shard's index file. The system ends it with the process, also when that is killed, so
what lies about without a lock was left behind. An object store has no locks: there, starting a shard once is up to you.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.files import remove_temporaries
from lofa.paths import Place, inside
from lofa.processes import is_locked, locked

__all__ = ["claimed", "living_shards", "remove_leftovers"]

_ANY = "*-of-*"


@contextmanager
def claimed(store: ZooStore, shard: str) -> Iterator[None]:
    """Holds a shard ("1-of-4") for the time of the block.

    Raises:
        DataError: it is being built already, or a shard of another division is: both would train the same LoRAs.
    """
    index = inside(store.set_dir, store.index(shard))
    if not isinstance(index, Path):
        yield
        return
    with locked(index) as own:
        if not own:
            raise DataError(f"{store.folder}: another process is building shard {shard}; wait for it, or stop it")
        parts = shard.rpartition("-")[2]
        foreign = [other for other in living_shards(store, shard) if other.rpartition("-")[2] != parts]
        if foreign:
            raise DataError(
                f"{store.folder}: shard {foreign[0]} is being built, which has LoRAs in common with shard {shard}; "
                "wait for it, or divide the zoo into the same number of shards"
            )
        yield


def living_shards(store: ZooStore, own: str = "") -> list[str]:
    """The shards, but for `own`, that a process is building now."""
    living = []
    for index in store.files(store.index(_ANY).name):
        shard = index.name.removeprefix("index-").removesuffix(".jsonl")
        if shard != own and isinstance(index, Path) and is_locked(index):
            living.append(shard)
    return living


def remove_leftovers(store: ZooStore, shard: str, goals: Collection[Place]) -> None:
    """Removes the temporaries that killed processes left: all, or while other shards live those on the way to `goals`.

    Args:
        shard: that this process holds.
        goals: files that this shard alone writes.
    """
    remove_temporaries(store.folder, lambda: not living_shards(store, shard), {goal.name for goal in goals})
