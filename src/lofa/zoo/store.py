"""A shard of a zoo: whose it is, which of its LoRAs need no training any more, and how they are written.

It belongs to one process at a time, which holds a lock on the shard's index file. The system ends it with the process,
also when that is killed, so what lies about without a lock was left behind. An object store has no locks: there,
starting a shard once is up to you.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lofa.backbones import Backbone
from lofa.data import ZooEntry, ZooStore
from lofa.errors import DataError
from lofa.files import read_metadata
from lofa.paths import inside
from lofa.processes import locked
from lofa.zoo.jobs import LoraResult, lora_seed
from lofa.zoo.options import ZooOptions
from lofa.zoo.plan import LoraPlan

__all__ = ["claimed", "settled", "write"]

_CHECKED = 16  # every run checks some files of the runs before it, so a zoo stays of one kind without reading all


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
        for other in store.living(shard):
            if other.rpartition("-")[2] != shard.rpartition("-")[2]:
                common = f"shard {other} is being built, which has LoRAs in common with shard {shard}"
                raise DataError(f"{store.folder}: {common}; wait for it, or make as many shards")
        yield


def settled(store: ZooStore, backbone: Backbone, options: ZooOptions) -> dict[str, ZooEntry]:
    """The LoRAs of all shards that are there or in quarantine, by id.

    Raises:
        DataError: they were trained for another backbone or with other options; what differs is named.
    """
    entries = store.entries()
    entries = {name: one for name, one in entries.items() if one.status != "ok" or store.path(name).is_file()}
    ready = [name for name, entry in entries.items() if entry.status == "ok"]
    now = options.recipe()
    for path in map(store.path, ready[:: max(1, len(ready) // _CHECKED)]):
        metadata = read_metadata(path)
        before, fingerprint = json.loads(metadata.get("recipe", "{}")), metadata.get("backbone_fingerprint")
        changed = [f"{key}={before.get(key)!r} (now {now[key]!r})" for key in now if before.get(key) != now[key]]
        if not backbone.accepts(fingerprint):
            found = f"{metadata.get('backbone', 'unknown')!r}, fingerprint {fingerprint}"
            changed.insert(0, f"backbone {found} (now {backbone.name!r}, fingerprint {backbone.fingerprint})")
        if changed:
            raise DataError(
                f"{path}: this zoo was begun with {', '.join(changed)}. Go on with that, delete the folder "
                f"{store.folder}, or prepare a set of another name: data=<name>"
            )
    return entries


def write(store: ZooStore, plan: LoraPlan, result: LoraResult, backbone: Backbone, options: ZooOptions) -> None:
    """Writes the adapter and its line in this shard's index; where there is none a line that puts it in quarantine."""
    first, final = (loss if math.isfinite(loss) else None for loss in (result.first_loss, result.final_loss))
    status = "quarantined" if result.adapter is None else "ok"
    seconds = round(result.seconds, 3)
    entry = ZooEntry(result.id, status, first, final, result.steps, seconds, result.failure or "")
    if result.adapter is None:
        store.note(entry, options.shard_name)
        return
    facts = {
        "rank": options.rank,
        "alpha": options.alpha,
        "steps": result.steps,
        "seed": lora_seed(result.id),
        "lr": None if result.lr == options.lr else result.lr,
        "first_loss": result.first_loss,
        "final_loss": result.final_loss,
        "held_first_loss": result.held_first_loss,
        "held_final_loss": result.held_final_loss,
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "caption": plan.anchor.caption,
        "clips": json.dumps([sample.id for sample in plan.clips]),
        "recipe": json.dumps(options.recipe()),
    }
    metadata = {key: str(value) for key, value in facts.items() if value is not None}
    store.add(result.adapter, entry, options.shard_name, metadata)
