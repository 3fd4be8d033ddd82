"""The LoRA zoo of a set: `zoo/<id>.safetensors` in the diffusers format, and `zoo/index-<shard>.jsonl` that lists them.

A process appends to the index of its own shard alone, after the file itself is written; reading merges all of them, the
last line of an id counting. Reading some layers of a file touches the bytes of those layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from lofa.adapters import Adapter, LowRank, LowRankBatch, stack_adapters
from lofa.data.batch import LayerStack
from lofa.data.samples import check_backbone
from lofa.errors import DataError
from lofa.files import append_jsonl, digest, read_jsonl, read_metadata, read_tensors, tensor_shapes

__all__ = ["ZooEntry", "ZooStore"]

_VERSION = "lofa-zoo-1"
_SCALES = "lora_adapter_metadata"  # diffusers' header entry for alpha; our own files fold alpha into B


@dataclass(frozen=True)
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

    def __init__(self, set_dir: str | Path) -> None:
        self.set_dir = Path(set_dir)
        self.folder = self.set_dir / "zoo"

    def path(self, sample_id: str) -> Path:
        """The file of a LoRA."""
        return self.folder / f"{sample_id}.safetensors"

    def index(self, shard: str) -> Path:
        """The index that a shard writes."""
        return self.folder / f"index-{shard}.jsonl"

    def entries(self) -> dict[str, ZooEntry]:
        """Every LoRA an index knows, by sample id; empty where there is no zoo.

        Raises:
            DataError: a line without id and status.
        """
        known = {field.name for field in fields(ZooEntry)}
        merged: dict[str, ZooEntry] = {}
        for index in sorted(self.folder.glob("index-*.jsonl")):
            for row in read_jsonl(index):
                if not isinstance(row, dict) or not {"id", "status"} <= row.keys():
                    raise DataError(f"{index}: a line without id and status: {row}; delete it, or build the zoo again")
                merged[row["id"]] = ZooEntry(**{key: value for key, value in row.items() if key in known})
        return merged

    def ready(self) -> list[str]:
        """Ids of the LoRAs that are done and there, in the order of the indices."""
        return [entry.id for entry in self.entries().values() if entry.status == "ok" and self.path(entry.id).is_file()]

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
        missing = {"backbone", "backbone_fingerprint"} - metadata.keys()
        if missing:
            raise ValueError(f"the header of a zoo file must name {', '.join(sorted(missing))}")
        path = self.path(entry.id)
        Adapter(adapter, {"format_version": _VERSION, **metadata}).save(path, dtype=dtype)
        self.note(replace(entry, digest=digest(path)), shard)

    def note(self, entry: ZooEntry, shard: str) -> None:
        """Writes a line alone into `index-<shard>.jsonl`, for a LoRA in quarantine."""
        append_jsonl(self.index(shard), asdict(entry))

    def read(self, sample_id: str, layers: Sequence[str], fingerprint: str) -> dict[str, LowRank]:
        """The pairs of the named layers of one LoRA, in float32.

        Raises:
            DataError: the file is missing, damaged, made for another backbone, lacks a layer, or holds NaN or infinity.
        """
        path = self.path(sample_id)
        if not path.is_file():
            raise DataError(f"{path}: no such LoRA; make it with: lofa zoo data={self.set_dir.name}")
        metadata = read_metadata(path)
        check_backbone(path, metadata, fingerprint)
        try:
            pairs = Adapter.load(path).to(dtype=torch.float32) if _SCALES in metadata else self._slices(path, layers)
            chosen = {name: pairs[name] for name in layers}
        except (DataError, KeyError):
            self._check_layers(path, layers)
            raise
        values = [tensor.flatten() for pair in chosen.values() for tensor in (pair.A, pair.B)]
        if not torch.isfinite(torch.cat(values)).all():
            bad = next(name for name, pair in chosen.items() if not torch.isfinite(pair.delta_weight()).all())
            raise DataError(f"{path}: layer {bad} holds NaN or infinity; delete the file and run `lofa zoo` again")
        return chosen

    def _slices(self, path: Path, layers: Sequence[str]) -> dict[str, LowRank]:
        """Pairs of a file whose multiplier is 1."""
        one = torch.ones(())
        tensors = read_tensors(path, [f"{layer}.lora_{part}.weight" for layer in layers for part in "AB"])
        return {
            layer: LowRank(tensors[f"{layer}.lora_A.weight"].float(), tensors[f"{layer}.lora_B.weight"].float(), one)
            for layer in layers
        }

    def _check_layers(self, path: Path, layers: Sequence[str]) -> None:
        """DataError where the header of a LoRA does not list all of the layers."""
        there = {name.partition(".lora_")[0] for name in tensor_shapes(path)}
        lacking = [layer for layer in layers if layer not in there]
        if lacking:
            raise DataError(
                f"{path}: no LoRA for {len(lacking)} of the backbone's {len(layers)} layers (the first: {lacking[0]}); "
                f"it has {len(there)}. Set backbone.kinds to the kinds the zoo was built with, or build a zoo anew"
            )

    def stacks(
        self, sample_ids: Sequence[str], names: Sequence[str], groups: Iterable[Sequence[int]], fingerprint: str
    ) -> list[LayerStack]:
        """LoRAs of several samples on groups of layers, each group of one shape; a file is read once.

        Args:
            sample_ids: whose LoRAs
            names: of all layers that indices count
            groups: indices of the layers of each stack
            fingerprint: of the backbone in use

        Raises:
            DataError: as in `read`.
        """
        groups = [list(group) for group in groups]
        wanted = [names[index] for group in groups for index in group]
        batch = stack_adapters([self.read(sample_id, wanted, fingerprint) for sample_id in sample_ids])
        return [_stack(group, [batch[names[index]] for index in group]) for group in groups]


def _stack(layers: Sequence[int], pairs: Sequence[LowRankBatch]) -> LayerStack:
    A, B, alpha = (torch.stack(part, 1) for part in zip(*((pair.A, pair.B, pair.alpha) for pair in pairs), strict=True))
    return LayerStack(torch.tensor(layers), A, B, alpha)
