"""The multiplier of a layer as PEFT computes it from a LoRA configuration."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lofa.adapters.formats.container import RawFile

__all__ = ["peft_scale"]


def peft_scale(config: Mapping[str, Any], path: str, rank: int, raw: RawFile) -> float:
    """`lora_alpha / r`, or `lora_alpha / sqrt(r)` for rank-stabilised LoRA, with PEFT's per-layer patterns.

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
