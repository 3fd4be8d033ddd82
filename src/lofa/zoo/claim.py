"""A shard of a zoo belongs to one process at a time.

The process holds a lock on the shard's index file. The system ends it with the process, also when that is killed, so
what lies about without a lock was left behind. An object store has no locks: there, starting a shard once is up to you.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lofa.data import ZooStore
from lofa.errors import DataError
from lofa.files import temporaries
from lofa.stores import Place, StorePath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["claimed", "living_shards", "remove_leftovers"]

_ANY = "*-of-*"


@contextmanager
def claimed(store: ZooStore, shard: str) -> Iterator[None]:
    """Holds a shard ("1-of-4") for the time of the block.

    Raises:
        DataError: it is being built already, or a shard of another division is: both would train the same LoRAs.
    """
    index = store.index(shard)
    if isinstance(index, StorePath):
        yield
        return
    index.parent.mkdir(parents=True, exist_ok=True)
    with index.open("ab") as own:
        if not _lock(own):
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
        if shard != own and isinstance(index, Path):
            with index.open("rb") as file:
                if not _lock(file, shared=True):
                    living.append(shard)
    return living


def _lock(file: BinaryIO, shared: bool = False) -> bool:
    """Whether the lock is ours now; also where the system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_leftovers(store: ZooStore, shard: str, goals: Collection[Place]) -> None:
    """Removes the temporaries that killed processes left: all, or while other shards live those on the way to `goals`.

    Args:
        shard: that this process holds.
        goals: files that this shard alone writes.
    """
    found = temporaries(store.folder)  # before asking who lives: what is made later is not among them
    alone = not living_shards(store, shard)
    names = {goal.name for goal in goals}
    for path, goal in found.items():
        if alone or goal in names:
            path.unlink(missing_ok=True)
