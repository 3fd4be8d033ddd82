"""SDXL: blocks inside blocks, as diffusers' UNet2DConditionModel and Stability's own code name their layers.

| diffusers                        | original                      |
|----------------------------------|-------------------------------|
| `down_blocks.{i}.attentions.{j}` | `input_blocks.{1 + 3i + j}.1` |
| `mid_block.attentions.0`         | `middle_block.1`              |
| `up_blocks.{i}.attentions.{j}`   | `output_blocks.{3i + j}.1`    |

What follows (`transformer_blocks.{k}.attn1.to_q`) is named alike. 3 is the number of places of a level of the published
UNet: two of layers and, on the way down, one that halves the size. Trainers of LoRAs with underscored names spell
diffusers' path so, or the original name: both are read, the first is written.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lofa.adapters.families.family import Family
from lofa.adapters.lowrank import LowRank

__all__ = ["SDXL"]

_KINDS = (
    *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2"),
)
_OUTSIDE = ("proj_in", "proj_out")
_PLACES = 3


def _pattern(block: str) -> re.Pattern[str]:
    """Of a layer's name, dotted or with underscores for the dots."""
    kinds = "|".join(re.escape(kind) for kind in _KINDS)
    layer = rf"(?:transformer_blocks\.(?P<inner>\d+)\.(?P<kind>{kinds})|(?P<outside>{'|'.join(_OUTSIDE)}))"
    return re.compile(rf"(?P<block>{block})\.{layer}".replace(r"\.", "[._]"))


_PATH = _pattern(r"(?:(?P<side>down|up)_blocks\.(?P<i>\d+)|mid_block)\.attentions\.(?P<j>\d+)")
_ORIGINAL = _pattern(r"(?:(?P<side>input|output)_blocks\.(?P<n>\d+)|middle_block)\.1")


@dataclass(frozen=True)
class _Sdxl(Family):
    def locate(self, path: str) -> tuple[str, str] | None:
        match = _dotted(path)
        if match is None or match["kind"] is None:
            return None
        return f"{match['block']}.transformer_blocks.{match['inner']}", match["kind"]

    def original(self, path: str) -> str | None:
        match = _dotted(path)
        if match is None:
            return None
        place = int(match["i"] or 0) * _PLACES + int(match["j"])
        blocks = {"down": f"input_blocks.{1 + place}", "up": f"output_blocks.{place}", None: "middle_block"}
        return f"{blocks[match['side']]}.1.{_layer(match)}"

    def path(self, original: str) -> str | None:
        match = _PATH.fullmatch(original) if "." not in original else None
        if match is not None:
            block = "mid_block" if match["side"] is None else f"{match['side']}_blocks.{match['i']}"
            return f"{block}.attentions.{match['j']}.{_layer(match)}"
        match = _ORIGINAL.fullmatch(original)
        if match is None:
            return None
        if match["side"] is None:
            return f"mid_block.attentions.0.{_layer(match)}"
        down = match["side"] == "input"
        i, j = divmod(int(match["n"]) - down, _PLACES)
        return f"{'down' if down else 'up'}_blocks.{i}.attentions.{j}.{_layer(match)}"

    def to_original(self, pairs: Mapping[str, LowRank], flat: bool = False) -> dict[str, LowRank]:
        if flat:
            return {path.replace(".", "_"): pair for path, pair in pairs.items()}
        return super().to_original(pairs)


def _dotted(path: str) -> re.Match[str] | None:
    return _PATH.fullmatch(path) if "." in path else None


def _layer(match: re.Match[str]) -> str:
    """What follows the block, dotted."""
    if match["kind"] is None:
        return str(match["outside"])
    kind = next(kind for kind in _KINDS if kind.replace(".", "_") == match["kind"].replace(".", "_"))
    return f"transformer_blocks.{match['inner']}.{kind}"


SDXL = _Sdxl(
    name="sdxl",
    components={"unet": ""},
    table={kind: kind for kind in _KINDS},
    others={name: name for name in _OUTSIDE},
    one_alpha=True,
)
