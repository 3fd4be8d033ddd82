"""Families whose layers each have one name in either spelling: a table is all they need."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lofa.adapters.lowrank import LowRank

__all__ = ["RenamedFamily"]


@dataclass(frozen=True)
class RenamedFamily:
    """A `Family` of equal blocks by a table of names.

    Attributes:
        name, components: as in `Family`
        table: linear layers of one block, diffusers' spelling -> the original one
        others: linear layers outside the blocks, in the same two spellings
    """

    name: str
    components: Mapping[str, str]
    table: Mapping[str, str]
    others: Mapping[str, str]

    @property
    def kinds(self) -> Sequence[str]:
        """As in `Family`."""
        return tuple(self.table)

    def layer_path(self, depth: int, kind: str) -> str:
        """Module path of the layer of that kind in block `depth`."""
        return f"blocks.{depth}.{kind}"

    def locate(self, path: str) -> tuple[int, str] | None:
        """As in `Family`."""
        match = self._block.fullmatch(path)
        return (int(match["depth"]), match["kind"]) if match and match["kind"] in self.table else None

    def original(self, path: str) -> str | None:
        """Original name of the layer at a module path; None if the table has no such layer."""
        place = self.locate(path)
        return self.others.get(path) if place is None else f"blocks.{place[0]}.{self.table[place[1]]}"

    def path(self, original: str) -> str | None:
        """Inverse of `original`, dotted or with underscores for the dots."""
        match = self._block.fullmatch(original) or self._flat_block.fullmatch(original)
        if match is None:
            return self._paths_of_others.get(original)
        kind = self._kinds.get(match["kind"])
        return None if kind is None else self.layer_path(int(match["depth"]), kind)

    def has_path(self, path: str) -> bool:
        """As in `Family`."""
        return self.original(path) is not None

    def has_original(self, name: str) -> bool:
        """As in `Family`."""
        return self.path(name) is not None

    def to_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """As in `Family`."""
        return {name: pair for path, pair in pairs.items() if (name := self.original(path)) is not None}

    def from_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """As in `Family`."""
        return {path: pair for name, pair in pairs.items() if (path := self.path(name)) is not None}

    @cached_property
    def _block(self) -> re.Pattern[str]:
        return re.compile(r"blocks\.(?P<depth>\d+)\.(?P<kind>.+)")

    @cached_property
    def _flat_block(self) -> re.Pattern[str]:
        return re.compile(r"blocks_(?P<depth>\d+)_(?P<kind>.+)")

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return _inverse(self.table)

    @cached_property
    def _paths_of_others(self) -> dict[str, str]:
        return _inverse(self.others)


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    dotted = {original: path for path, original in table.items()}
    return dotted | {original.replace(".", "_"): path for original, path in dotted.items()}
