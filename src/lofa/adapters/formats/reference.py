"""The format of the published LoFA code and DiffSynth: a torch file of original names,
`<path>.lora_A.default.weight` (r, in) and `<path>.lora_B.default.weight` (out, r), multiplier 1.

There is no room for alpha (folded into B on writing) nor for header strings (lost).
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from lofa.adapters.families import family_of
from lofa.adapters.formats.container import RawFile, collect_pairs, folded
from lofa.adapters.formats.renaming import to_layers, to_original
from lofa.adapters.lowrank import LowRank
from lofa.files import save_torch
from lofa.targets import FILE

__all__ = ["KIND", "ONE_COMPONENT", "matches", "read", "write"]

KIND = FILE
ONE_COMPONENT = True


def matches(raw: RawFile) -> bool:
    """Whether the tensors are bare original names of a family."""
    stems = {name.partition(".lora_")[0].removesuffix(".alpha") for name in raw.tensors}
    return bool(stems) and family_of(stems, original=True) is not None


def read(raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads the layers; the format keeps no strings."""
    return to_layers(raw, {original: pair.to_low_rank() for original, pair in collect_pairs(raw).items()}), {}


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the file; `metadata` can't be kept.

    Raises:
        AdapterFormatError: more than one component, or a layer of a family without original names.
    """
    tensors = {}
    for original, pair in to_original(path, layers, "reference")[1].items():
        A, B = folded(pair, dtype, f"{path}: layer {original}")
        tensors[f"{original}.lora_A.default.weight"] = A.detach().cpu().contiguous()
        tensors[f"{original}.lora_B.default.weight"] = B.detach().cpu().contiguous()
    save_torch(path, tensors)
