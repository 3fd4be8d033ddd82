"""SDXL: blocks inside blocks, as diffusers' UNet2DConditionModel and Stability's own code name their layers.

| diffusers                        | original                    |
|----------------------------------|-----------------------------|
| `down_blocks.{i}.attentions.{j}` | `input_blocks.{1 + 3i + j}.1` |
| `mid_block.attentions.0`         | `middle_block.1`            |
| `up_blocks.{i}.attentions.{j}`   | `output_blocks.{3i + j}.1`  |

What follows (`transformer_blocks.{k}.attn1.to_q`) is named alike. 3 is the number of places of a level of the published
UNet: two of layers and, on the way down, one that halves the size. Trainers of LoRAs with underscored names spell
diffusers' path so, or the original name: both are read, the first is written.
"""

import re
from collections.abc import Mapping, Sequence

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
    name = rf"{block}\.(?:transformer_blocks\.(?P<inner>\d+)\.(?P<kind>{kinds})|(?P<outside>{'|'.join(_OUTSIDE)}))"
    return re.compile(name.replace(r"\.", "[._]"))


_PATH = _pattern(r"(?:(?P<side>down|up)_blocks\.(?P<i>\d+)|mid_block)\.attentions\.(?P<j>\d+)")
_ORIGINAL = _pattern(r"(?:(?P<side>input|output)_blocks\.(?P<n>\d+)|middle_block)\.1")


class _Sdxl:
    """A `Family` whose blocks differ in what they hold."""

    name = "sdxl"
    components: Mapping[str, str] = {"unet": ""}
    kinds: Sequence[str] = _KINDS

    def locate(self, path: str) -> tuple[int, str] | None:
        """As in `Family`. The depth orders the blocks by where data pass: down, middle, up."""
        match = _PATH.fullmatch(path)
        if match is None or match["kind"] is None:
            return None
        side = {"down": 0, None: 1, "up": 2}[match["side"]]
        return ((side * 10 + int(match["i"] or 0)) * 10 + int(match["j"])) * 100 + int(match["inner"]), match["kind"]

    def has_path(self, path: str) -> bool:
        """As in `Family`."""
        return "." in path and _PATH.fullmatch(path) is not None

    def has_original(self, name: str) -> bool:
        """As in `Family`."""
        return _ORIGINAL.fullmatch(name) is not None or ("." not in name and _PATH.fullmatch(name) is not None)

    def to_original(self, pairs: Mapping[str, LowRank], flat: bool) -> dict[str, LowRank]:
        """As in `Family`."""
        return {path.replace(".", "_") if flat else _original(path): pair for path, pair in pairs.items()}

    def from_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """As in `Family`."""
        return {_path(name): pair for name, pair in pairs.items()}


def _original(path: str) -> str:
    match = _PATH.fullmatch(path)
    assert match is not None  # asked before, by `has_path`
    place = int(match["i"] or 0) * _PLACES + int(match["j"])
    block = {"down": f"input_blocks.{1 + place}", None: "middle_block", "up": f"output_blocks.{place}"}[match["side"]]
    return f"{block}.1.{_rest(match)}"


def _path(name: str) -> str:
    match = _PATH.fullmatch(name)
    if match is not None:
        block = f"{match['side']}_blocks.{match['i']}" if match["side"] else "mid_block"
        return f"{block}.attentions.{match['j']}.{_rest(match)}"
    match = _ORIGINAL.fullmatch(name)
    assert match is not None
    if match["side"] is None:
        return f"mid_block.attentions.0.{_rest(match)}"
    i, j = divmod(int(match["n"]) - (match["side"] == "input"), _PLACES)
    return f"{'down' if match['side'] == 'input' else 'up'}_blocks.{i}.attentions.{j}.{_rest(match)}"


def _rest(match: re.Match[str]) -> str:
    if match["kind"] is None:
        return match["outside"]
    kind = next(kind for kind in _KINDS if kind.replace(".", "_") == match["kind"].replace(".", "_"))
    return f"transformer_blocks.{match['inner']}.{kind}"


SDXL = _Sdxl()
