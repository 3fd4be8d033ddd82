"""A shard of a zoo belongs to one process at a time.

The process holds a lock on the shard's index file. The system ends it with the process, also when that is killed, so
what lies about without a lock was left behind. An object store has no locks: there, starting a shard once is up to you.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.paths import inside
from lofa.processes import is_locked, locked

__all__ = ["claimed", "living_shards"]


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
        for other in living_shards(store, shard):
            if other.rpartition("-")[2] != shard.rpartition("-")[2]:
                common = f"shard {other} is being built, which has LoRAs in common with shard {shard}"
                raise DataError(f"{store.folder}: {common}; wait for it, or make as many shards")
        yield


def living_shards(store: ZooStore, own: str = "") -> list[str]:
    """The shards, but for `own`, that a process is building now."""
    indices = [index for index in store.files(store.index("*-of-*").name) if isinstance(index, Path)]
    shards = {index.stem.removeprefix("index-"): index for index in indices}
    return [shard for shard, index in shards.items() if shard != own and is_locked(index)]
