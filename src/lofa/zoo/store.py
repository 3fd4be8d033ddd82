"""How a zoo's LoRAs are written, and which are there already."""

import json

from lofa.backbones import Backbone
from lofa.data import ZooEntry, ZooStore
from lofa.errors import DataError
from lofa.files import read_metadata
from lofa.zoo.jobs import LoraResult
from lofa.zoo.options import ZooOptions
from lofa.zoo.plan import LoraPlan

__all__ = ["finished", "write"]

_CHECKED = 16  # every run checks some files of the runs before it, so a zoo stays of one kind without reading all


def finished(store: ZooStore, backbone: Backbone, options: ZooOptions) -> set[str]:
    """Ids of the LoRAs that are there, of all shards.

    Raises:
        DataError: they were trained for another backbone or with other options; what differs is named.
    """
    ready = store.ready()
    now = json.loads(json.dumps(options.recipe()))
    for name in ready[:: max(1, len(ready) // _CHECKED)]:
        path = store.path(name)
        metadata = read_metadata(path)
        before = json.loads(metadata.get("recipe", "{}"))
        changed = [f"{key}={before.get(key)!r} (now {now[key]!r})" for key in now if before.get(key) != now[key]]
        if metadata.get("backbone_fingerprint") != backbone.fingerprint:
            found = f"{metadata.get('backbone', 'unknown')!r}, fingerprint {metadata.get('backbone_fingerprint')}"
            changed.insert(0, f"backbone {found} (now {backbone.name!r}, fingerprint {backbone.fingerprint})")
        if changed:
            raise DataError(
                f"{path}: this zoo was begun with {', '.join(changed)}. Go on with that, delete "
                f"the folder {store.folder}, or prepare a set of another name: data=<name>"
            )
    return set(ready)


def write(
    store: ZooStore, plan: LoraPlan, result: LoraResult, seed: int, backbone: Backbone, options: ZooOptions
) -> None:
    """Writes the adapter and its line in this shard's index; the line alone where training failed."""
    shard = "{}-of-{}".format(*options.shard_index)
    if result.adapter is None:
        store.note(ZooEntry(result.id, "failed", reason=result.failure or "", steps=result.steps), shard)
        return
    facts = {
        "rank": options.rank,
        "alpha": options.alpha,
        "steps": result.steps,
        "seed": seed,
        "first_loss": result.first_loss,
        "final_loss": result.final_loss,
        "held_first_loss": result.held_first_loss,
        "held_final_loss": result.held_final_loss,
    }
    metadata = {key: str(value) for key, value in facts.items() if value is not None} | {
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "caption": plan.anchor.caption,
        "clips": json.dumps([sample.id for sample in plan.clips]),
        "recipe": json.dumps(options.recipe()),
    }
    entry = ZooEntry(result.id, "ok", result.first_loss, result.final_loss, result.steps, round(result.seconds, 3))
    store.add(result.adapter, entry, shard, metadata)
