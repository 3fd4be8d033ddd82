"""The PEFT format: a folder of adapter_config.json and adapter_model.safetensors, for one pipeline component.

Tensors are `base_model.model.<path>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r); the multiplier is the
configuration's `lora_alpha / r`, so `lora_alpha` = alpha * r, with patterns for layers that differ from the first.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from lofa.adapters.families import canonical_pairs
from lofa.adapters.formats.container import (
    COMPONENT,
    CONFIG_NAME,
    PEFT_WEIGHTS,
    RawFile,
    collect_pairs,
    in_range,
    metadata_to_keep,
    pop_component,
    single_component,
)
from lofa.adapters.formats.scaling import peft_scale
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import join_name
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, save_tensors, write_json
from lofa.targets import Kind, holds_only

__all__ = ["KIND", "ONE_COMPONENT", "matches", "read", "write"]

_PREFIX = "base_model.model."
ONE_COMPONENT = True


def _is_adapter(path: Path) -> bool:
    try:
        config = read_json(path / CONFIG_NAME) if holds_only(path, [CONFIG_NAME, PEFT_WEIGHTS]) else None
    except DataError:
        return False
    return isinstance(config, dict) and config.get("peft_type") == "LORA"


KIND = Kind(f"a PEFT adapter folder ({CONFIG_NAME} and {PEFT_WEIGHTS} alone)", _is_adapter)


def matches(raw: RawFile) -> bool:
    """Whether PEFT's configuration lies beside the tensors."""
    return raw.config is not None


def read(raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads layers and header strings."""
    config = raw.config or {}
    if config.get("peft_type") != "LORA":
        raise raw.error(f"a PEFT adapter of type {config.get('peft_type')!r}, only LORA can be read")
    metadata = metadata_to_keep(raw.metadata)
    component = pop_component(raw, metadata) or "transformer"
    pairs = {
        path: pair.to_low_rank(peft_scale(config, path, pair.A.shape[0], raw))
        for path, pair in collect_pairs(raw, _PREFIX).items()
    }
    return {join_name(component, path): pair for path, pair in canonical_pairs(pairs).items()}, metadata


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the folder.

    Raises:
        AdapterFormatError: more than one component.
    """
    component, paths = single_component(layers, "peft")
    pairs = {
        module: in_range(layers[join_name(component, module)], dtype, f"{path}: layer {module}") for module in paths
    }
    tensors = {}
    for module, pair in pairs.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = pair.A
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = pair.B
    ranks = {module: pair.rank for module, pair in pairs.items()}
    alphas = {module: pair.alpha.item() * pair.rank for module, pair in pairs.items()}
    first = paths[0]
    config = {
        "peft_type": "LORA",
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {re.escape(m): rank for m, rank in ranks.items() if rank != ranks[first]},
        "alpha_pattern": {re.escape(m): alpha for m, alpha in alphas.items() if alpha != alphas[first]},
        "target_modules": paths,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_write(path, KIND) as folder:
        folder.mkdir()
        write_json(folder / CONFIG_NAME, config)
        save_tensors(
            folder / PEFT_WEIGHTS, tensors, {"format": "pt", **metadata_to_keep(metadata), COMPONENT: component}
        )
