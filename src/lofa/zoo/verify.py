"""Checks a zoo: what its indices say against what lies there, against the set and against the backbone."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.data import ZooStore, read_samples
from lofa.data.samples import check_backbone
from lofa.errors import DataError, LofaError
from lofa.files import digest, local_copy, read_jsonl, read_metadata, read_tensors, temporaries
from lofa.paths import Location, Place
from lofa.zoo.claim import living_shards
from lofa.zoo.options import LoraOptions
from lofa.zoo.trainer import adapted_layers

__all__ = ["Check", "ZooAudit", "verify_zoo"]


@dataclass
class Check:
    """One check: of how many things, and (file, what is wrong and what to do) of each problem."""

    looked_at: int = 0
    problems: list[tuple[Place, str]] = field(default_factory=list)


@dataclass(frozen=True)
class ZooAudit:
    """What was found in a zoo.

    Attributes:
        checks: by name, in the order they were made.
        quarantined: (id, reason) of LoRAs in quarantine; no problem.
        living: shards that are being built; their temporaries are no problem.
    """

    checks: dict[str, Check]
    quarantined: tuple[tuple[str, str], ...]
    living: tuple[str, ...]

    @property
    def problems(self) -> list[tuple[Place, str]]:
        """Those of all checks."""
        return [problem for check in self.checks.values() for problem in check.problems]


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
    ready = {name for name, entry in entries.items() if entry.status == "ok"}
    living = tuple(living_shards(store))
    checks = {
        "index lines": _check_index(store, {sample.id for sample in read_samples(set_dir)}),
        "files listed": _check_listed(store, ready),
        "files there": Check(),
        "digests": Check(),
        "backbone": Check(),
        "layers and shapes": Check(),
        "finite values": Check(),
        "no two equal": Check(),
        "temporaries": Check(),
    }
    seen: dict[bytes, str] = {}
    for name in sorted(ready):
        for check, problem in _check_file(store, name, entries[name].digest, backbone, options, seen):
            checks[check].looked_at += 1
            if problem:
                checks[check].problems.append((store.path(name), problem))
    left = {} if living else temporaries(store.folder)
    checks["temporaries"] = Check(len(left), [(path, "left by a run that was killed; delete it") for path in left])
    quarantined = tuple((name, entry.reason) for name, entry in entries.items() if name not in ready)
    return ZooAudit(checks, quarantined, living)


def _check_index(store: ZooStore, samples: set[str]) -> Check:
    """Lines of one LoRA agree on its digest, and the set has its sample."""
    check = Check()
    said: dict[str, tuple[str, Place]] = {}
    for index in store.files(store.index("*").name):
        for row in read_jsonl(index, torn=True):
            check.looked_at += 1
            name, found = row["id"], row.get("digest", "")
            first, where = said.setdefault(name, (found, index)) if found else (found, index)
            if found != first:
                advice = f"delete the line whose digest is not that of {store.path(name).name}"
                check.problems.append((index, f"{name} was trained before, by {where.name}, to other values; {advice}"))
            if name not in samples:
                check.problems.append((index, f"{name} is no sample of the set; delete its line and its file"))
    return check


def _check_listed(store: ZooStore, ready: set[str]) -> Check:
    """Every file has its line."""
    files = [path for path in store.files("*.safetensors") if not path.name.startswith(".")]
    advice = "no index line says that it is done, so it is not used; run `lofa zoo` again, or delete it"
    return Check(len(files), [(path, advice) for path in files if path.name.removesuffix(".safetensors") not in ready])


def _check_file(
    store: ZooStore, name: str, expected: str, backbone: Backbone, options: LoraOptions, seen: dict[bytes, str]
) -> Iterator[tuple[str, str]]:
    """(check, problem or "") for each check of a LoRA's file, as far as they can be made."""
    path = store.path(name)
    if not path.is_file():
        yield "files there", "the index lists it, but it is not there; run `lofa zoo` again"
        return
    yield "files there", ""
    with local_copy(path) as copy:
        yield from _check_content(name, copy, expected, backbone, options, seen)


def _check_content(
    name: str,
    path: Path,
    expected: str,
    backbone: Backbone,
    options: LoraOptions,
    seen: dict[bytes, str],
) -> Iterator[tuple[str, str]]:
    """The checks of `_check_file` on what the file holds."""
    again = "delete it and run `lofa zoo` again"
    found = digest(path)
    yield "digests", "" if found == expected else f"sha256 {found[:12]}..., the index has {expected[:12]}...; {again}"
    try:
        check_backbone(path, read_metadata(path), backbone)
        yield "backbone", ""
    except LofaError as error:
        yield "backbone", str(error).removeprefix(f"{path}: ")
    try:
        bad = [tensor for tensor, value in read_tensors(path).items() if not value.isfinite().all()]
        yield "finite values", f"{bad[0]} holds NaN or infinity; {again}" if bad else ""
        if bad:
            return
        adapter = Adapter.load(path)
    except LofaError as error:
        yield "layers and shapes", str(error).removeprefix(f"{path}: ")
        return
    wrong = _wrong_shape(adapter, backbone, options)
    yield "layers and shapes", f"{wrong}; {again}" if wrong else ""
    other = seen.setdefault(_content(adapter), name)
    yield "no two equal", "" if other == name else f"the very values of {other}; delete both, run `lofa zoo` again"


def _wrong_shape(adapter: Adapter, backbone: Backbone, options: LoraOptions) -> str:
    """The first layer that is missing, too many or of a wrong size; empty where all is right."""
    wanted = {layer.name: (layer.out_features, layer.in_features) for layer in adapted_layers(backbone, options)}
    found = {layer: (pair.B.shape[0], pair.A.shape[1]) for layer, pair in adapter.items()}
    for layer in sorted(wanted.keys() | found.keys()):
        if wanted.get(layer) != found.get(layer):
            return f"{layer}: {found.get(layer, 'nothing')}, the backbone has {wanted.get(layer, 'no such layer')}"
    return ""


def _content(adapter: Adapter) -> bytes:
    """Hash of all values, whatever the header says."""
    hashed = hashlib.sha256()
    for layer in sorted(adapter):
        for part in vars(adapter[layer]).values():
            hashed.update(part.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.digest()
