"""LoRA files of models that have no layer table here: told by their tensors' names, so that they are refused by name.

| format      | tensors of a layer                                                       |
|-------------|--------------------------------------------------------------------------|
| kohya       | `lora_unet_<path>`, `lora_te_<path>`, ... + `.lora_down.weight`, `.alpha` |
| comfyui     | `diffusion_model.<path>` + `.lora_A.weight` or `.lora_down.weight`        |
| cloneofsimo | `unet:<number>:down`, `text_encoder:<number>:up`; layers have no names    |

The condition's width tells the models of the Stable Diffusion line apart: no other layer of their UNets has it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lofa.adapters.formats.container import RawFile

__all__ = ["ForeignLora", "recognise"]

_SIDE = r"\.(?:(?P<down>lora_down|lora_A)\.weight|(?:lora_up|lora_mid|lora_B)\.weight|alpha|dora_scale)"
_FORMATS = {
    "kohya": re.compile(rf"lora_(?P<part>unet|te\d?)_(?P<layer>[^.]+){_SIDE}"),
    "comfyui": re.compile(rf"(?P<part>diffusion_model|text_encoders)\.(?P<layer>.+?){_SIDE}"),
    "cloneofsimo": re.compile(r"(?P<part>unet|text_encoder):(?P<layer>\d+):(?:(?P<down>down)|up)"),
}
_MODEL_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}


@dataclass(frozen=True)
class ForeignLora:
    """What is known of such a file.

    Attributes:
        format: how its tensors are named
        model: what it was made for, as far as its tensors tell
        parts: part of the pipeline -> number of adapted layers
        ranks: the ranks that occur, ascending
    """

    format: str
    model: str
    parts: Mapping[str, int]
    ranks: tuple[int, ...]

    @property
    def is_older(self) -> bool:
        """Whether it is for an older model whose layers have the names of SDXL's."""
        return self.model.startswith("Stable Diffusion")

    def __str__(self) -> str:
        return f"a {self.format} LoRA for {self.model}"


def recognise(raw: RawFile) -> ForeignLora | None:
    """What the file is by its tensors' names; None where most of them fit no format here."""
    found = {
        format: {name: match for name in raw.tensors if (match := pattern.fullmatch(name))}
        for format, pattern in _FORMATS.items()
    }
    format, matches = max(found.items(), key=lambda item: len(item[1]))
    if 2 * len(matches) <= len(raw.tensors):
        return None
    layers = {(match["part"], match["layer"]) for match in matches.values()}
    widths: dict[str, set[int]] = {part: set() for part, _ in sorted(layers)}
    ranks = set()
    for name, match in matches.items():
        if match["down"] and raw.tensors[name].ndim > 1:
            ranks.add(raw.tensors[name].shape[0])
            if match["part"] != "unet" or "attn2" in match["layer"] or match["layer"].isdigit():
                widths[match["part"]].add(raw.tensors[name].shape[1])
    return ForeignLora(
        format,
        _model(format, widths),
        {part: sum(own == part for own, _ in layers) for part in widths},
        tuple(sorted(ranks)),
    )


def _model(format: str, widths: Mapping[str, set[int]]) -> str:
    """The model whose condition has the width of the columns of each part's layers."""
    if widths.keys() & {"te1", "te2"}:
        return "SDXL"
    if format != "comfyui":
        for part in ("unet", "te", "text_encoder"):
            known = sorted(widths.get(part, set()) & _MODEL_OF_WIDTH.keys())
            if len(known) == 1:
                return _MODEL_OF_WIDTH[known[0]]
    return "a model unknown here"
