"""Merging an adapter into a backbone: `W + strength * alpha * B @ A` for good, as a diffusers folder of its own."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lofa.adapters import Adapter, LowRank
from lofa.backbones.folder import WeightFolder
from lofa.errors import BackboneError
from lofa.files import atomic_write, read_json, read_metadata, read_tensors, save_tensors, write_json

__all__ = ["MERGED_FILE", "merge_adapter", "merged_adapters"]

MERGED_FILE = "lofa_merged.json"
"""In a merged folder: a list of what was merged into it, the latest last."""


def merged_adapters(folder: Path) -> list[dict[str, Any]]:
    """What was merged into a folder, the latest last; empty for one that nothing was merged into."""
    file = folder / MERGED_FILE
    return list(read_json(file)) if file.is_file() else []


def merge_adapter(
    folder: str | Path, adapter: Adapter, out: str | Path, strength: float = 1.0, note: Mapping[str, Any] | None = None
) -> None:
    """Writes `folder` again as `out`, the adapter's layers as W + strength * alpha * B @ A; all else is copied.

    Sums are taken in float32 (float64 where W is) and stored in W's own precision. Files are rewritten one at a
    time, so memory holds the largest of them. `out` appears whole or not at all.

    Args:
        folder: a diffusers folder with .safetensors weights
        adapter: for layers of its components
        out: a folder that does not exist yet
        strength: factor on the adapter
        note: what `MERGED_FILE` says of the adapter beside its layers and the strength

    Raises:
        BackboneError: `out` exists or lies inside `folder`, the adapter was made for another backbone, or a sum is
            beyond W's precision.
    """
    folder, out = Path(folder), Path(out)
    if out.exists():
        raise BackboneError(f"out={out}: exists already; give a new folder, or delete it first")
    if folder.resolve() in out.resolve().parents:
        raise BackboneError(f"out={out}: lies inside the backbone {folder}; give a folder elsewhere")
    weights = WeightFolder(folder)
    weights.check((name, (pair.B.shape[0], pair.A.shape[1])) for name, pair in adapter.items())
    changes: dict[Path, dict[str, LowRank]] = {}
    for name, pair in adapter.items():
        for file, tensor in weights.places(name):
            changes.setdefault(file, {})[tensor] = pair
    entry = {"strength": strength, "layers": len(adapter), "metadata": adapter.metadata, **(note or {})}
    with atomic_write(out) as temporary:
        shutil.copytree(folder, temporary, ignore=lambda at, names: {n for n in names if Path(at, n) in changes})
        for file, pairs in changes.items():
            _merge_file(file, temporary / file.relative_to(folder), pairs, strength)
        write_json(temporary / MERGED_FILE, [*merged_adapters(folder), entry])


def _merge_file(file: Path, out: Path, pairs: Mapping[str, LowRank], strength: float) -> None:
    tensors = read_tensors(file)
    for name, pair in pairs.items():
        W = tensors[name]
        dtype = torch.promote_types(W.dtype, torch.float32)
        tensors[name] = (W.to(dtype) + strength * pair.to(dtype=dtype).delta_weight().to(dtype)).to(W.dtype)
        if not torch.isfinite(tensors[name]).all():
            raise BackboneError(f"{file}: {name} would hold infinity after merging; give a smaller strength")
    save_tensors(out, tensors, read_metadata(file))
