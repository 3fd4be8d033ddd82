"""What the file formats ask of a model family."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lofa.adapters.lowrank import LowRank

__all__ = ["Family"]

_BLOCK = re.compile(r"blocks(?P<dot>[._])(?P<depth>\d+)(?P=dot)(?P<kind>.+)")


@dataclass(frozen=True)
class Family:
    """The linear layers of a model family under diffusers' paths and under the names of its first publication.

    Here its blocks are equal and each layer has one name in either spelling, so a table is all it needs. The formats
    rename whole sets of pairs: a family that fuses layers (one `qkv` for three) overrides those methods.

    Attributes:
        name: of the family
        components: pipeline components that hold the layers -> what a file that holds this one alone adds to its name;
            the first is meant where a file doesn't say
        table: linear layers of one block, diffusers' spelling -> the original one
        others: linear layers outside the blocks, in the same two spellings
        one_alpha: files of underscored names get one alpha for all layers, since diffusers reads no other from them
    """

    name: str
    components: Mapping[str, str]
    table: Mapping[str, str]
    others: Mapping[str, str]
    one_alpha: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of linear layers of a block, in order."""
        return tuple(self.table)

    def layer_path(self, depth: int, kind: str) -> str:
        """Module path of the layer of that kind in block `depth`."""
        return f"blocks.{depth}.{kind}"

    def locate(self, path: str) -> tuple[int | str, str] | None:
        """(block, kind) of a block's layer given by its module path, None for every other path."""
        match = _BLOCK.fullmatch(path)
        if match is None or match["dot"] != "." or match["kind"] not in self.table:
            return None
        return int(match["depth"]), match["kind"]

    def original(self, path: str) -> str | None:
        """Original name of the layer at a module path; None if the table has no such layer."""
        place = self.locate(path)
        return self.others.get(path) if place is None else f"blocks.{place[0]}.{self.table[place[1]]}"

    def path(self, original: str) -> str | None:
        """Inverse of `original`, dotted or with underscores for the dots."""
        match = _BLOCK.fullmatch(original)
        known = self._paths.get(original if match is None else match["kind"])
        if match is None:
            return known if known in self.others else None
        return self.layer_path(int(match["depth"]), known) if known is not None and known in self.table else None

    def has_path(self, path: str) -> bool:
        """Whether a module path is of a layer of this family."""
        return self.original(path) is not None

    def has_original(self, name: str) -> bool:
        """Whether a name is the original one of a layer of this family, dotted or with underscores for the dots."""
        return self.path(name) is not None

    def to_original(self, pairs: Mapping[str, LowRank], flat: bool = False) -> dict[str, LowRank]:
        """Pairs by module path -> by original name, `flat`: with underscores for dots; every path is in `has_path`."""
        named = {name: pair for path, pair in pairs.items() if (name := self.original(path)) is not None}
        return {name.replace(".", "_"): pair for name, pair in named.items()} if flat else named

    def from_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """Inverse of `to_original`; every name is one of `has_original`."""
        return {path: pair for name, pair in pairs.items() if (path := self.path(name)) is not None}

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Original spelling, dotted or flat -> diffusers', within a block and outside of them."""
        dotted = {original: path for path, original in (*self.table.items(), *self.others.items())}
        return dotted | {original.replace(".", "_"): path for original, path in dotted.items()}
