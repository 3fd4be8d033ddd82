"""Merging an adapter into a backbone: `W + strength * alpha * B @ A` for good, as a diffusers folder of its own.

Weights are read tensor by tensor without building a network. A layer name's component is a subfolder, its module path
with `.weight` a tensor of one of its .safetensors files: "transformer.blocks.0.attn1.to_q" is
`blocks.0.attn1.to_q.weight` in `transformer/*.safetensors`.
"""

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofa.adapters import Adapter, LowRank
from lofa.adapters.names import join_name, split_name
from lofa.errors import BackboneError, DataError
from lofa.faults import write_faults
from lofa.files import atomic_write, read_json, read_metadata, read_tensors, save_tensors, tensor_shapes, write_json
from lofa.targets import Kind, check_target, holds_only

__all__ = ["MERGED", "MERGED_FILE", "WeightFolder", "check_merge_target", "merge_adapter", "merged_adapters"]

MERGED_FILE = "lofa_merged.json"
"""In a merged folder: a list of what was merged into it, the latest last, with the files of the folder."""


class WeightFolder:
    """A diffusers folder as a table of layers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _layers(self) -> dict[str, dict[Path, tuple[int, ...]]]:
        """Layer name -> the files that hold its weight, and its size there."""
        found: dict[str, dict[Path, tuple[int, ...]]] = {}
        for file in sorted(self.path.glob("*/*.safetensors")):
            for tensor, size in tensor_shapes(file).items():
                if tensor.endswith(".weight"):
                    found.setdefault(join_name(file.parent.name, tensor[: -len(".weight")]), {})[file] = size
        return found

    def files(self, name: str) -> list[Path]:
        """Every file that holds the weight of a layer: several where the folder has variants.

        Raises:
            BackboneError: the folder has no such layer.
        """
        if name not in self._layers:
            component, _ = split_name(name)
            count = sum(known.startswith(f"{component}.") for known in self._layers)
            raise BackboneError(
                f"{self.path}: no weight of the layer {name} among the {count} of {component}/*.safetensors; the "
                "adapter was made for another backbone"
            )
        return list(self._layers[name])

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, read from disk (BackboneError as in `files`)."""
        tensor = f"{split_name(name)[1]}.weight"
        return read_tensors(self.files(name)[0], [tensor])[tensor]

    def check(self, adapter: Mapping[str, LowRank]) -> None:
        """Compares an adapter with the folder (BackboneError: a layer that it lacks or has in another size)."""
        for name, pair in adapter.items():
            size = pair.B.shape[0], pair.A.shape[1]
            for file in self.files(name):
                found = self._layers[name][file]
                if found != size:
                    raise BackboneError(
                        f"{file}: the layer {name} is {found}, the adapter is for one of {size}: it was made for "
                        "another backbone"
                    )


def _is_merged(path: Path) -> bool:
    try:
        files = merged_adapters(path)[-1]["files"]
        return holds_only(path, [MERGED_FILE, *files])
    except (DataError, LookupError, TypeError):
        return False


MERGED = Kind(f"a model folder that merge wrote, as its {MERGED_FILE} has it", _is_merged)


def merged_adapters(folder: Path) -> list[dict[str, Any]]:
    """What was merged into a folder, the latest last; empty for one that nothing was merged into."""
    file = folder / MERGED_FILE
    return list(read_json(file)) if file.is_file() else []


def check_merge_target(folder: str | Path, out: str | Path, overwrite: bool) -> None:
    """Asks whether `folder` can be written again as `out`, before anything is computed.

    Raises:
        BackboneError: `out` is `folder` or lies in it.
        TargetError: something stands at `out`; with `overwrite`, something else than a folder that merge wrote.
    """
    folder, out = Path(folder), Path(out)
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise BackboneError(f"out={out}: lies inside the backbone {folder}; give a folder elsewhere")
    check_target(out, overwrite, MERGED)


def merge_adapter(
    folder: str | Path,
    adapter: Adapter,
    out: str | Path,
    strength: float = 1.0,
    note: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes `folder` again as `out`, the adapter's layers as W + strength * alpha * B @ A; all else is copied.

    Sums are taken in float32 (float64 where W is) and stored in W's own precision. Files are rewritten one at a
    time, so memory holds the largest of them. `out` appears whole or not at all.

    Args:
        folder: a diffusers folder with .safetensors weights
        adapter: for layers of its components
        out: the folder to write
        strength: factor on the adapter
        note: what `MERGED_FILE` says of the adapter beside its layers and the strength
        overwrite: replace `out` if it is a folder that merge wrote

    Raises:
        BackboneError: `out` lies inside `folder`, the adapter was made for another backbone, or a sum is beyond W's
            precision.
        TargetError, WriteError: `out` stands there and is not to be replaced; the disk is full ...
    """
    folder, out = Path(folder), Path(out)
    check_merge_target(folder, out, overwrite)
    weights = WeightFolder(folder)
    weights.check(adapter)
    changes: dict[Path, dict[str, LowRank]] = {}
    for name, pair in adapter.items():
        for file in weights.files(name):
            changes.setdefault(file, {})[f"{split_name(name)[1]}.weight"] = pair
    entry = {"strength": strength, "layers": len(adapter), "metadata": adapter.metadata, **(note or {})}
    with atomic_write(out, MERGED) as temporary:
        ignored = {*changes, folder / MERGED_FILE}
        shutil.copytree(
            folder,
            temporary,
            ignore=lambda at, names: {n for n in names if Path(at, n) in ignored},
            copy_function=_copy,
        )
        for file, pairs in changes.items():
            _merge_file(file, temporary / file.relative_to(folder), pairs, strength)
        files = (file.relative_to(temporary).as_posix() for file in temporary.rglob("*") if file.is_file())
        entry["files"] = sorted(files)
        write_json(temporary / MERGED_FILE, [*merged_adapters(folder), entry])


def _copy(file: str, out: str) -> None:
    with write_faults(Path(out), Path(out)):  # copytree would gather an error a file
        shutil.copy2(file, out)


def _merge_file(file: Path, out: Path, pairs: Mapping[str, LowRank], strength: float) -> None:
    tensors = read_tensors(file)
    for name, pair in pairs.items():
        W = tensors[name]
        dtype = torch.promote_types(W.dtype, torch.float32)
        tensors[name] = (W.to(dtype) + strength * pair.to(dtype=dtype).delta_weight().to(dtype)).to(W.dtype)
        if not torch.isfinite(tensors[name]).all():
            raise BackboneError(f"{file}: {name} would hold infinity after merging; give a smaller strength")
    save_tensors(out, tensors, read_metadata(file))
