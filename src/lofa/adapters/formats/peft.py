"""The PEFT format: a folder of adapter_config.json and adapter_model.safetensors, for one pipeline component.

Tensors are `base_model.model.<path>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r); the multiplier is the
configuration's `lora_alpha / r`, so `lora_alpha` = alpha * r, with patterns for layers that differ from the first.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lofa.adapters.families import canonical_pairs
from lofa.adapters.formats.container import (
    CONFIG_NAME,
    PEFT_WEIGHTS,
    RawFile,
    collect_pairs,
    header,
    in_range,
    single_component,
    split_header,
)
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import join_name
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, save_tensors, write_json
from lofa.targets import Kind, holds_only

__all__ = ["KIND", "ONE_COMPONENT", "matches", "peft_scale", "read", "write"]

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
    metadata, component = split_header(raw)
    pairs = canonical_pairs(collect_pairs(raw, _PREFIX, partial(peft_scale, raw, config)))
    return {join_name(component or "transformer", path): pair for path, pair in pairs.items()}, metadata


def peft_scale(raw: RawFile, config: Mapping[str, Any], path: str, rank: int) -> float:
    """The multiplier of a layer: `lora_alpha / r`, or `lora_alpha / sqrt(r)` for rank-stabilised LoRA, with patterns.

    Raises:
        AdapterFormatError: a DoRA or otherwise extended configuration, or one without a usable lora_alpha.
    """
    for option in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if config.get(option):
            raise raw.error(f"made with {option}={config[option]}, which is more than alpha * B @ A")
    alpha = config.get("lora_alpha", rank)
    patterns = config.get("alpha_pattern") or {}
    try:
        alpha = next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), alpha)
    except (AttributeError, re.error) as error:
        raise raw.error(f"alpha_pattern is no table of layer patterns ({error})") from None
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise raw.error(f"lora_alpha of {path} is {alpha!r}, not a number")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the folder (AdapterFormatError: more than one component)."""
    component, pairs = single_component(layers, "peft")
    pairs = {module: in_range(pair, dtype, f"{path}: layer {module}") for module, pair in pairs.items()}
    tensors = {}
    for module, pair in pairs.items():
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = pair.A
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = pair.B
    ranks = {module: pair.rank for module, pair in pairs.items()}
    alphas = {module: pair.alpha.item() * pair.rank for module, pair in pairs.items()}
    first = next(iter(pairs))
    config = {
        "peft_type": "LORA",
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {re.escape(m): rank for m, rank in ranks.items() if rank != ranks[first]},
        "alpha_pattern": {re.escape(m): alpha for m, alpha in alphas.items() if alpha != alphas[first]},
        "target_modules": list(pairs),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_write(path, KIND) as folder:
        folder.mkdir()
        write_json(folder / CONFIG_NAME, config)
        save_tensors(folder / PEFT_WEIGHTS, tensors, header(metadata, component))
