"""The LoRA zoo of a set: `zoo/<id>.safetensors` in the diffusers format, and `zoo/index-<shard>.jsonl` that lists them.

A process appends to the index of its own shard alone, after the file itself is written; reading merges all of them, the
last line of an id counting. Reading some layers of a file touches the bytes of those layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from lofa.adapters import Adapter, LoraBatch, LowRank, stack_adapters
from lofa.backbones import Fingerprinted
from lofa.data.samples import check_backbone
from lofa.errors import DataError
from lofa.files import append_jsonl, atomic_write, digest, read_jsonl
from lofa.paths import Location, Place, check_name, inside, listing, locate
from lofa.processes import is_locked
from lofa.ranges import TensorFile, open_tensors

__all__ = ["ZooEntry", "ZooStore"]

_VERSION = "lofa-zoo-1"


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One line of an index."""

    id: str
    """the sample the LoRA is anchored at"""
    status: str
    """ok, or quarantined: there is no file"""
    first_loss: float | None = None
    """denoising loss at fixed noise without the LoRA"""
    final_loss: float | None = None
    """the same with it"""
    steps: int = 0
    seconds: float = 0.0
    reason: str = ""
    """why it is in quarantine, or was trained a second time"""
    digest: str = ""
    """sha256 of the file"""


class ZooStore:
    """The zoo in the folder of a set."""

    def __init__(self, set_dir: Location) -> None:
        self.set_dir = locate(set_dir)
        self.folder = self.set_dir / "zoo"

    def path(self, sample_id: str) -> Place:
        """The file of a LoRA (DataError: an id that can't be a file's name)."""
        return self.folder / f"{check_name(sample_id, self.folder)}.safetensors"

    def index(self, shard: str) -> Place:
        """The index that a shard writes."""
        return self.folder / f"index-{shard}.jsonl"

    def files(self, pattern: str) -> list[Place]:
        """What lies in the zoo's folder by names that fit the pattern, in order."""
        return listing(self.folder, pattern)

    def living(self, own: str = "") -> list[str]:
        """The shards, but for `own`, that a process is building now, so it holds their indices."""
        indices = [index for index in self.files("index-*.jsonl") if isinstance(index, Path)]
        shards = {index.stem.removeprefix("index-"): index for index in indices}
        return [shard for shard, index in shards.items() if shard != own and is_locked(index)]

    def entries(self) -> dict[str, ZooEntry]:
        """Every LoRA an index knows, by sample id; empty where there is no zoo.

        Raises:
            DataError: a damaged line (a last one that a crash tore is passed over), or an id that is no file's name.
        """
        known = {field.name for field in fields(ZooEntry)}
        merged: dict[str, ZooEntry] = {}
        for index in self.files("index-*.jsonl"):
            for row in read_jsonl(index, torn=True):
                try:
                    entry = ZooEntry(**{key: value for key, value in row.items() if key in known})
                except (AttributeError, TypeError):
                    raise DataError(
                        f"{index}: not a line of a LoRA: {row}; delete it, or build the zoo again"
                    ) from None
                merged[check_name(entry.id, index)] = entry
        return merged

    def ready(self) -> list[str]:
        """Ids of the LoRAs that are done and there, in the order of the indices."""
        there = {path.stem for path in self.files("*.safetensors")}  # one listing, not a question a file
        return [name for name, entry in self.entries().items() if entry.status == "ok" and name in there]

    def add(
        self,
        adapter: Adapter,
        entry: ZooEntry,
        shard: str,
        metadata: Mapping[str, str],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Writes a LoRA and then its line into `index-<shard>.jsonl`.

        Args:
            adapter: the LoRA
            entry: its facts; `digest` is filled in
            shard: name of this process' part
            metadata: strings for the file's header; must name `backbone` and `backbone_fingerprint`
            dtype: precision of the file, None for the adapter's
        """
        with atomic_write(inside(self.set_dir, self.path(entry.id))) as temporary:
            Adapter(adapter, {"format_version": _VERSION, **metadata}).save(temporary, dtype=dtype)
            entry = replace(entry, digest=digest(temporary))
        self.note(entry, shard)

    def note(self, entry: ZooEntry, shard: str) -> None:
        """Writes a line alone into `index-<shard>.jsonl`, for a LoRA in quarantine."""
        append_jsonl(inside(self.set_dir, self.index(shard)), asdict(entry))

    def read(self, sample_id: str, layers: Sequence[str], backbone: Fingerprinted) -> dict[str, LowRank]:
        """The pairs of the named layers of one LoRA, in float32.

        Raises:
            DataError: the file is missing, damaged, made for another backbone, lacks a layer, or holds NaN or infinity.
        """
        path = self.path(sample_id)
        with open_tensors(path, f"no such LoRA; make it with: lofa zoo data={self.set_dir}") as file:
            check_backbone(path, file.metadata, backbone)
            chosen = _read_layers(file, layers)
        values = [tensor.flatten() for pair in chosen.values() for tensor in (pair.A, pair.B)]
        if not torch.isfinite(torch.cat(values)).all():
            bad = next(name for name, pair in chosen.items() if not torch.isfinite(pair.delta_weight()).all())
            raise DataError(f"{path}: layer {bad} holds NaN or infinity; delete the file and run `lofa zoo` again")
        return chosen

    def stacks(
        self, sample_ids: Sequence[str], groups: Iterable[Sequence[str]], backbone: Fingerprinted
    ) -> list[LoraBatch]:
        """LoRAs of several samples on groups of layers, each group of one shape; a file is read once.

        Raises:
            DataError: as in `read`.
        """
        groups = list(groups)
        wanted = [name for group in groups for name in group]
        batch = stack_adapters([self.read(sample_id, wanted, backbone) for sample_id in sample_ids])
        return [LoraBatch.stack(batch, group) for group in groups]


def _read_layers(file: TensorFile, layers: Sequence[str]) -> dict[str, LowRank]:
    """Pairs of a file whose multiplier is 1, as `ZooStore.add` writes them."""
    there = {name.partition(".lora_")[0] for name in file.shapes}
    lacking = [layer for layer in layers if layer not in there]
    if lacking:
        raise DataError(
            f"{file.place}: no LoRA for {len(lacking)} of the backbone's {len(layers)} layers (the first: "
            f"{lacking[0]}). Set backbone.kinds to the kinds the zoo was built with, or build a zoo anew"
        )
    tensors = file.read(f"{layer}.lora_{part}.weight" for layer in layers for part in "AB")
    one = torch.ones(())
    return {
        layer: LowRank(tensors[f"{layer}.lora_A.weight"].float(), tensors[f"{layer}.lora_B.weight"].float(), one)
        for layer in layers
    }
