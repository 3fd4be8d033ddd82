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

from lofa.adapters.families import family_of
from lofa.adapters.formats.container import (
    COMPONENT,
    RawFile,
    collect_pairs,
    in_range,
    metadata_to_keep,
    pop_component,
)
from lofa.adapters.formats.renaming import to_layers, to_original
from lofa.adapters.lowrank import LowRank
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
    ONE_COMPONENT: ClassVar[bool] = True

    def matches(self, raw: RawFile) -> bool:
        """Whether every tensor carries the prefix and one is of a layer known here."""
        names = [name.removeprefix(self.prefix) for name in raw.tensors if name.startswith(self.prefix)]
        stems = {name.partition(".lora_")[0] for name in names}
        return len(names) == len(raw.tensors) and any(family_of([stem], original=True) for stem in stems)

    def read(self, raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
        """Reads layers and header strings."""
        metadata = metadata_to_keep(raw.metadata)
        component = pop_component(raw, metadata)
        pairs = {original: pair.to_low_rank() for original, pair in collect_pairs(raw, self.prefix).items()}
        return to_layers(raw, pairs, component), metadata

    def write(
        self, path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None
    ) -> None:
        """Writes the file.

        Raises:
            AdapterFormatError: more than one component, or a layer of a family without original names.
        """
        component, pairs = to_original(path, layers, self.name)
        tensors = {}
        for original, pair in pairs.items():
            if pair.alpha < 0:  # diffusers loops for ever over a negative one
                pair = LowRank(pair.A, -pair.B, -pair.alpha)
            pair = in_range(pair, dtype, f"{path}: layer {original}")
            stem = self.prefix + (original.replace(".", "_") if self.flat else original)
            tensors[f"{stem}.lora_down.weight"] = pair.A
            tensors[f"{stem}.lora_up.weight"] = pair.B
            # float64 holds alpha * r exactly, so that the division gives alpha back bit for bit
            tensors[f"{stem}.alpha"] = pair.alpha.double() * pair.rank
        save_tensors(path, tensors, {"format": "pt", **metadata_to_keep(metadata), COMPONENT: component})


COMFYUI = OriginalNames("comfyui", prefix="diffusion_model.", flat=False)
KOHYA = OriginalNames("kohya", prefix="lora_unet_", flat=True)
