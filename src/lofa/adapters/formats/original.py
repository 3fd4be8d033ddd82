"""The formats in the names of a model's first publication: one .safetensors, for one pipeline component.

| format  | a layer's tensors begin with               | made and read by      |
|---------|--------------------------------------------|-----------------------|
| comfyui | `diffusion_model.blocks.0.self_attn.q`     | ComfyUI, diffusers    |
| kohya   | `lora_unet_blocks_0_self_attn_q`           | musubi-tuner, ComfyUI |

They go on `.lora_down.weight`, A (r, in); `.lora_up.weight`, B (out, r); `.alpha`, () = alpha * r: readers divide by r.
diffusers reads kohya's spelling only of files that hold all ten linear layers of every block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from lofa.adapters.formats.container import (
    COMPONENT,
    RawFile,
    collect_pairs,
    in_range,
    metadata_to_keep,
    pop_component,
    single_component,
)
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import FAMILIES, Family, join_name
from lofa.errors import AdapterFormatError
from lofa.files import save_tensors
from lofa.targets import FILE, Kind

__all__ = ["COMFYUI", "KOHYA", "OriginalNames"]


@dataclass(frozen=True)
class OriginalNames:
    """One of these formats.

    Attributes:
        name: of the format
        prefix: what every tensor's name begins with
        flat: whether layer names have underscores for dots
    """

    name: str
    prefix: str
    flat: bool
    KIND: ClassVar[Kind] = FILE

    def matches(self, raw: RawFile) -> bool:
        """Whether every tensor carries the prefix and one is of a layer known here."""
        names = [name.removeprefix(self.prefix) for name in raw.tensors if name.startswith(self.prefix)]
        return len(names) == len(raw.tensors) and any(_find(name.partition(".lora_")[0]) for name in names)

    def read(self, raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
        """Reads layers and header strings."""
        metadata = metadata_to_keep(raw.metadata)
        component = pop_component(raw, metadata)
        layers = {}
        for original, pair in collect_pairs(raw, self.prefix).items():
            found = _find(original)
            if found is None:
                known = ", ".join(family.name for family in FAMILIES)
                raise raw.error(f"layer {original} is in none of the model families known here ({known})")
            family, path = found
            layers[join_name(component or family.component, path)] = pair.to_low_rank()
        return layers, metadata

    def write(
        self, path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None
    ) -> None:
        """Writes the file.

        Raises:
            AdapterFormatError: more than one component, or a layer of a family without original names.
        """
        component, paths = single_component(layers, self.name)
        tensors = {}
        for module in paths:
            names = (family.to_flat(module) if self.flat else family.to_original(module) for family in FAMILIES)
            original = next((name for name in names if name is not None), None)
            if original is None:
                raise AdapterFormatError(
                    f"{path}: no {self.name} name is known for layer {module}; use format=diffusers or peft"
                )
            pair = layers[join_name(component, module)]
            if pair.alpha < 0:  # diffusers loops for ever over a negative one
                pair = LowRank(pair.A, -pair.B, -pair.alpha)
            pair = in_range(pair, dtype, f"{path}: layer {module}")
            tensors[f"{self.prefix}{original}.lora_down.weight"] = pair.A
            tensors[f"{self.prefix}{original}.lora_up.weight"] = pair.B
            # float64 holds alpha * r exactly, so that the division gives alpha back bit for bit
            tensors[f"{self.prefix}{original}.alpha"] = pair.alpha.double() * pair.rank
        save_tensors(path, tensors, {"format": "pt", **metadata_to_keep(metadata), COMPONENT: component})


def _find(original: str) -> tuple[Family, str] | None:
    """The family of a layer in original spelling, and diffusers' path of it."""
    found = ((family, family.from_original(original)) for family in FAMILIES)
    return next(((family, path) for family, path in found if path is not None), None)


COMFYUI = OriginalNames("comfyui", prefix="diffusion_model.", flat=False)
KOHYA = OriginalNames("kohya", prefix="lora_unet_", flat=True)
