"""The ComfyUI format: one .safetensors in the model's original names,
`diffusion_model.<path>.lora_down.weight` (r, in), `.lora_up.weight` (out, r), `.alpha` () = alpha * r.

Readers multiply by `.alpha` / r. On reading, kohya's underscored names (`lora_unet_blocks_0_self_attn_q`) are
understood too.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from lofa.adapters.formats.container import RawFile, collect_pairs, metadata_to_keep, single_component
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import FAMILIES, Family, join_name
from lofa.errors import AdapterFormatError
from lofa.files import save_tensors

__all__ = ["matches", "read", "write"]

_PREFIX = "diffusion_model."
_FLAT_PREFIX = "lora_unet_"


def matches(raw: RawFile) -> bool:
    """Whether the tensors carry ComfyUI's or kohya's prefix."""
    return any(all(name.startswith(prefix) for name in raw.tensors) for prefix in (_PREFIX, _FLAT_PREFIX))


def read(raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads layers and header strings."""
    prefix = _FLAT_PREFIX if next(iter(raw.tensors)).startswith(_FLAT_PREFIX) else _PREFIX
    layers = {}
    for original, pair in collect_pairs(raw, prefix).items():
        family, path = _find(raw, original)
        layers[join_name(family.component, path)] = pair.to_low_rank()
    return layers, metadata_to_keep(raw.metadata)


def _find(raw: RawFile, original: str) -> tuple[Family, str]:
    for family in FAMILIES:
        path = family.from_original(original)
        if path is not None:
            return family, path
    known = ", ".join(family.name for family in FAMILIES)
    raise raw.error(f"layer {original} is in none of the model families known here ({known})")


def write(path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Writes the file.

    Raises:
        AdapterFormatError: more than one component, or a layer of a family without original names.
    """
    component, paths = single_component(layers, "comfyui")
    tensors = {}
    for module in paths:
        pair = layers[join_name(component, module)]
        original = next((name for family in FAMILIES if (name := family.to_original(module))), None)
        if original is None:
            raise AdapterFormatError(
                f"{path}: no ComfyUI name is known for layer {module}; use format=diffusers or peft"
            )
        tensors[f"{_PREFIX}{original}.lora_down.weight"] = pair.A.to(dtype=dtype)
        tensors[f"{_PREFIX}{original}.lora_up.weight"] = pair.B.to(dtype=dtype)
        # float64 holds alpha * r exactly, so that the division gives alpha back bit for bit
        tensors[f"{_PREFIX}{original}.alpha"] = pair.alpha.double() * pair.rank
    save_tensors(path, tensors, {"format": "pt", **metadata_to_keep(metadata)})
