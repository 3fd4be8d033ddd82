"""The format of the published LoFA code and DiffSynth: a torch file of original Wan names,
`<path>.lora_A.default.weight` (r, in) and `<path>.lora_B.default.weight` (out, r), multiplier 1.

There is no room for alpha (folded into B on writing) nor for header strings (lost).
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from lofa.adapters.formats.container import RawFile, collect_pairs, folded, single_component
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import WAN, join_name
from lofa.errors import AdapterFormatError
from lofa.files import save_torch
from lofa.targets import FILE

__all__ = ["KIND", "matches", "read", "write"]

KIND = FILE


def matches(raw: RawFile) -> bool:
    """Whether the tensors are bare original names of Wan."""
    stems = {name.partition(".lora_")[0] for name in raw.tensors}
    return bool(stems) and all(WAN.from_original(stem.removesuffix(".alpha")) is not None for stem in stems)


def read(raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads the layers; the format keeps no strings."""
    layers = {}
    for original, pair in collect_pairs(raw).items():
        path = WAN.from_original(original)
        if path is None:
            raise raw.error(f"layer {original} is none of Wan's")
        layers[join_name(WAN.component, path)] = pair.to_low_rank()
    return layers, {}


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the file; `metadata` can't be kept.

    Raises:
        AdapterFormatError: more than one component, or a layer that is none of Wan's.
    """
    component, paths = single_component(layers, "reference")
    tensors = {}
    for module in paths:
        original = WAN.to_original(module)
        if original is None:
            raise AdapterFormatError(f"{path}: layer {module} is none of Wan's; use format=diffusers or peft")
        A, B = folded(layers[join_name(component, module)], dtype, f"{path}: layer {module}")
        tensors[f"{original}.lora_A.default.weight"] = A.detach().cpu().contiguous()
        tensors[f"{original}.lora_B.default.weight"] = B.detach().cpu().contiguous()
    save_torch(path, tensors)
