"""Checks a zoo: what its indices say against what lies there, against the set and against the backbone."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone, LayerSpec
from lofa.data import ZooStore, read_samples
from lofa.data.samples import check_backbone
from lofa.errors import DataError, LofaError
from lofa.files import digest, local_copy, read_jsonl, read_metadata, temporaries
from lofa.paths import Location, Place
from lofa.zoo.options import LoraOptions
from lofa.zoo.trainer import adapted_layers

__all__ = ["ZooAudit", "verify_zoo"]

_AGAIN = "delete it and run `lofa zoo` again"


@dataclass(frozen=True)
class ZooAudit:
    """What was found in a zoo.

    Attributes:
        quarantined: (id, reason) of LoRAs in quarantine; no problem.
        living: shards that are being built; their temporaries are no problem.
        looked_at: check -> how many things it looked at.
        problems: (check, file, what is wrong and what to do).
    """

    quarantined: tuple[tuple[str, str], ...]
    living: tuple[str, ...]
    looked_at: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, Place, str]] = field(default_factory=list)

    def note(self, check: str, path: Place, problem: str = "") -> None:
        """Counts what was looked at, and what is wrong with it."""
        self.looked_at[check] += 1
        if problem:
            self.problems.append((check, path, problem))


def verify_zoo(set_dir: Location, backbone: Backbone, options: LoraOptions) -> ZooAudit:
    """Reads every line and file of a zoo, one LoRA at a time.

    Args:
        set_dir: a prepared set.
        backbone: the one its zoo should be for.
        options: `kinds` of layers that have LoRAs.

    Raises:
        DataError: no such set, no LoRAs, or an index line without id and status.
        ConfigError: a layer kind that the backbone does not have.
    """
    store = ZooStore(set_dir)
    entries = store.entries()
    if not entries:
        raise DataError(f"{store.folder}: no LoRAs; train them with: lofa zoo data={store.set_dir.name}")
    layers = adapted_layers(backbone, options)
    ready = {name: entry for name, entry in sorted(entries.items()) if entry.status == "ok"}
    quarantined = tuple((name, entry.reason) for name, entry in entries.items() if name not in ready)
    audit = ZooAudit(quarantined, tuple(store.living()))
    _check_index(audit, store, {sample.id for sample in read_samples(set_dir)})
    for path in store.files("[!.]*.safetensors"):
        unlisted = "no index line says that it is done, so it is not used; run `lofa zoo` again, or delete it"
        audit.note("files listed", path, "" if path.name.removesuffix(".safetensors") in ready else unlisted)
    seen: dict[bytes, str] = {}
    for name, entry in ready.items():
        path = store.path(name)
        if not path.is_file():
            audit.note("files there", path, "the index lists it, but it is not there; run `lofa zoo` again")
            continue
        audit.note("files there", path)
        with local_copy(path) as copy:
            for check, problem in _check_file(copy, name, entry.digest, backbone, layers, seen):
                audit.note(check, path, problem.removeprefix(f"{copy}: "))
    for path in () if audit.living else temporaries(store.folder):
        audit.note("temporaries", path, "left by a run that was killed; delete it")
    return audit


def _check_index(audit: ZooAudit, store: ZooStore, samples: set[str]) -> None:
    """Lines of one LoRA agree on its digest, and the set has its sample."""
    digests: dict[str, str] = {}
    for index in store.files(store.index("*").name):
        for row in read_jsonl(index, torn=True):
            name, found, problem = row["id"], row.get("digest"), ""
            if found and digests.setdefault(name, found) != found:
                problem = f"{name} was trained before, to other values; delete the line whose digest is not its file's"
            if name not in samples:
                problem = f"{name} is no sample of the set; delete its line and its file"
            audit.note("index lines", index, problem)


def _check_file(
    path: Path, name: str, expected: str, backbone: Backbone, layers: tuple[LayerSpec, ...], seen: dict[bytes, str]
) -> Iterator[tuple[str, str]]:
    """(check, problem or "") for each check of a LoRA's file, as far as they can be made."""
    found = digest(path)
    yield "digests", "" if found == expected else f"sha256 {found[:12]}..., the index has {expected[:12]}...; {_AGAIN}"
    try:
        check_backbone(path, read_metadata(path), backbone)
        yield "backbone", ""
    except LofaError as error:
        yield "backbone", str(error)
    try:
        adapter = Adapter.load(path)
    except LofaError as error:
        yield "layers and values", str(error)
        return
    yield "layers and values", _wrong_shape(adapter, layers)
    values = hashlib.sha256()
    for _, pair in sorted(adapter.items()):
        for part in vars(pair).values():
            values.update(part.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    other = seen.setdefault(values.digest(), name)
    yield "no two equal", "" if other == name else f"the very values of {other}; delete both, run `lofa zoo` again"


def _wrong_shape(adapter: Adapter, layers: tuple[LayerSpec, ...]) -> str:
    """The first layer that is missing, too many or of a wrong size; empty where all is right."""
    wanted = {layer.name: (layer.out_features, layer.in_features) for layer in layers}
    found = {layer: (pair.B.shape[0], pair.A.shape[1]) for layer, pair in adapter.items()}
    for layer in sorted(wanted.keys() | found.keys()):
        if wanted.get(layer) != found.get(layer):
            has = wanted.get(layer, "no such layer")
            return f"{layer}: {found.get(layer, 'nothing')}, the backbone has {has}; {_AGAIN}"
    return ""
