"""What the file formats ask of a model family."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from lofa.adapters.lowrank import LowRank

__all__ = ["Family"]


class Family(Protocol):
    """The linear layers of a model family under diffusers' paths and under the names of its first publication.

    Whole sets of pairs are renamed at once: where a family fuses layers (one `qkv` for three), a name alone is not
    enough.
    """

    @property
    def name(self) -> str:
        """Of the family."""

    @property
    def components(self) -> Mapping[str, str]:
        """Pipeline components that hold the layers -> what a file that holds this one alone adds to its name.

        The first is meant where a file doesn't say.
        """

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of linear layers of a block, in order."""

    def locate(self, path: str) -> tuple[int, str] | None:
        """(depth, kind) of a block's layer given by its module path, None for every other path."""

    def has_path(self, path: str) -> bool:
        """Whether a module path is of a layer of this family."""

    def has_original(self, name: str) -> bool:
        """Whether a name is the original one of a layer of this family, dotted or with underscores for the dots."""

    def to_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """Pairs by module path -> pairs by original name, dotted; every path is one of `has_path`."""

    def from_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        """Inverse of `to_original`; every name is one of `has_original`."""
