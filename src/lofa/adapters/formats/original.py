"""The formats in the names of a model's first publication: one file, for one pipeline component.

| format    | a layer's tensors begin with           | made and read by             |
|-----------|----------------------------------------|------------------------------|
| comfyui   | `diffusion_model.blocks.0.self_attn.q` | ComfyUI, diffusers           |
| kohya     | `lora_unet_blocks_0_self_attn_q`       | musubi-tuner, ComfyUI        |
| reference | `blocks.0.self_attn.q`                 | published LoFA, DiffSynth    |

The first two go on `.lora_down.weight`, A (r, in); `.lora_up.weight`, B (out, r); `.alpha`, () = alpha * r: readers
divide by r. diffusers reads kohya's spelling only of files that hold all ten linear layers of every block.

reference is a torch file of `.lora_A.default.weight` (r, in) and `.lora_B.default.weight` (out, r), multiplier 1: there
is no room for alpha (folded into B on writing) nor for header strings (lost).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lofa.adapters.families import FAMILIES, family_of
from lofa.adapters.formats.container import (
    RawFile,
    collect_pairs,
    folded,
    header,
    in_range,
    single_component,
    split_header,
)
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import join_name
from lofa.errors import AdapterFormatError
from lofa.files import save_tensors, save_torch
from lofa.targets import FILE, Kind

__all__ = ["COMFYUI", "KOHYA", "REFERENCE"]


@dataclass(frozen=True)
class OriginalNames:
    """A format of scaled pairs in a .safetensors file.

    Attributes:
        name: of the format
        prefix: what every tensor's name begins with
        flat: whether layer names have underscores for dots
    """

    name: str
    prefix: str
    flat: bool = False
    KIND: ClassVar[Kind] = FILE
    ONE_COMPONENT: ClassVar[bool] = True

    def matches(self, raw: RawFile) -> bool:
        """Whether every tensor carries the prefix and one is of a layer known here."""
        stems = {name.removeprefix(self.prefix).partition(".lora_")[0] for name in raw.tensors}
        carried = all(name.startswith(self.prefix) for name in raw.tensors)
        return carried and any(family_of([stem], original=True) for stem in stems)

    def read(self, raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
        """Reads layers and header strings (AdapterFormatError: layers that are not all of one family known here)."""
        metadata, component = split_header(raw)
        pairs = collect_pairs(raw, self.prefix)
        family = family_of(pairs, original=True)
        if family is None:
            unknown = next((name for name in pairs if family_of([name], original=True) is None), next(iter(pairs)))
            raise raw.error(f"layer {unknown} is in none of the model families known here ({', '.join(FAMILIES)})")
        component = component or next(iter(family.components))
        return {join_name(component, path): pair for path, pair in family.from_original(pairs).items()}, metadata

    def write(
        self, path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None
    ) -> None:
        """Writes the file (AdapterFormatError: more than one component, or layers without an original name)."""
        component, pairs = single_component(layers, self.name)
        family = family_of(pairs)
        if family is None:
            unknown = next((module for module in pairs if family_of([module]) is None), next(iter(pairs)))
            raise AdapterFormatError(
                f"{path}: no {self.name} name is known for layer {unknown}; use format=diffusers or peft"
            )
        tensors: dict[str, Tensor] = {}
        one = float(max(pair.rank for pair in pairs.values())) if self.flat and family.one_alpha else None
        for original, pair in family.to_original(pairs, self.flat).items():
            stem = self.prefix + original
            if one is not None:  # the rest of alpha goes into B
                pair = LowRank(pair.A, pair.B * (pair.alpha * pair.rank / one), torch.tensor(one / pair.rank))
            tensors |= self._tensors(stem, pair, dtype, f"{path}: layer {original}")
            if one is not None:
                tensors[f"{stem}.alpha"] = torch.tensor(one, dtype=torch.float64)
        self._save(path, tensors, header(metadata, component))

    def _tensors(self, stem: str, pair: LowRank, dtype: torch.dtype | None, where: str) -> dict[str, Tensor]:
        if pair.alpha < 0:  # diffusers loops for ever over a negative one
            pair = LowRank(pair.A, -pair.B, -pair.alpha)
        pair = in_range(pair, dtype, where)
        # float64 holds alpha * r exactly, so that the division gives alpha back bit for bit
        alpha = pair.alpha.double() * pair.rank
        return {f"{stem}.lora_down.weight": pair.A, f"{stem}.lora_up.weight": pair.B, f"{stem}.alpha": alpha}

    def _save(self, path: Path, tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> None:
        save_tensors(path, tensors, strings)


class ReferenceNames(OriginalNames):
    """The format of pairs with multiplier 1 in a torch file."""

    def matches(self, raw: RawFile) -> bool:
        """Whether the tensors are bare original names of a family."""
        stems = {name.partition(".lora_")[0].removesuffix(".alpha") for name in raw.tensors}
        return family_of(stems, original=True) is not None

    def _tensors(self, stem: str, pair: LowRank, dtype: torch.dtype | None, where: str) -> dict[str, Tensor]:
        A, B = (tensor.detach().cpu().contiguous() for tensor in folded(pair, dtype, where))
        return {f"{stem}.lora_A.default.weight": A, f"{stem}.lora_B.default.weight": B}

    def _save(self, path: Path, tensors: Mapping[str, Tensor], strings: Mapping[str, str]) -> None:
        save_torch(path, tensors)


COMFYUI = OriginalNames("comfyui", prefix="diffusion_model.")
KOHYA = OriginalNames("kohya", prefix="lora_unet_", flat=True)
REFERENCE = ReferenceNames("reference", prefix="")
