"""The diffusers format: one .safetensors, `<component>.<path>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r).

diffusers takes no alpha tensors here and loses alpha without its own header entry, so alpha is folded into B on
writing: whoever reads the file gets the right delta weight. On reading, diffusers' header entry and alpha tensors are
obeyed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lofa.adapters.formats.container import DIFFUSERS_METADATA, RawFile, collect_pairs, folded, header, kept_strings
from lofa.adapters.formats.peft import peft_scale
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import split_name
from lofa.files import save_tensors
from lofa.targets import FILE

__all__ = ["KIND", "ONE_COMPONENT", "matches", "read", "write"]

KIND = FILE
ONE_COMPONENT = False

_COMPONENTS = ("transformer.", "transformer_2.", "unet.", "text_encoder.", "text_encoder_2.")


def matches(raw: RawFile) -> bool:
    """Whether every tensor belongs to a pipeline component and some are LoRA's (older files say lora.down, lora.up)."""
    return all(name.startswith(_COMPONENTS) for name in raw.tensors) and any(".lora" in name for name in raw.tensors)


def read(raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads layers and header strings."""
    configs = _configs(raw)

    def scale(name: str, rank: int) -> float:
        component, path = split_name(name)
        return peft_scale(raw, configs[component], path, rank) if component in configs else 1.0

    return collect_pairs(raw, scale=scale), kept_strings(raw.metadata)


def _configs(raw: RawFile) -> dict[str, dict[str, Any]]:
    """diffusers' header entry, by component: `{"transformer.r": 4, ...}` -> `{"transformer": {"r": 4, ...}}`."""
    if DIFFUSERS_METADATA not in raw.metadata:
        return {}
    configs: dict[str, dict[str, Any]] = {}
    try:
        for key, value in dict(json.loads(raw.metadata[DIFFUSERS_METADATA])).items():
            component, option = split_name(key)
            configs.setdefault(component, {})[option] = value
    except (ValueError, TypeError):
        raise raw.error(f"the header entry {DIFFUSERS_METADATA} is no json of <component>.<option>") from None
    return configs


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the file."""
    tensors: dict[str, torch.Tensor] = {}
    for name, pair in layers.items():
        A, B = folded(pair, dtype, f"{path}: layer {name}")
        tensors |= {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
    save_tensors(path, tensors, header(metadata))
