"""Model families by the names of their layers: one file a family, and one line of `FAMILIES`."""

from collections.abc import Collection, Mapping

from lofa.adapters.families.family import Family
from lofa.adapters.families.sdxl import SDXL
from lofa.adapters.families.wan import WAN
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import split_name

__all__ = ["FAMILIES", "Family", "canonical_pairs", "family_of", "locate_layer"]

FAMILIES: dict[str, Family] = {family.name: family for family in (WAN, SDXL)}
"""A family whose layers have no other names than diffusers' needs no line here."""


def family_of(names: Collection[str], original: bool = False) -> Family | None:
    """The family that has all these module paths, or original names; None where no family has."""
    for family in FAMILIES.values():
        if all(map(family.has_original if original else family.has_path, names)):
            return family
    return None


def locate_layer(name: str) -> tuple[str, int | str, str] | None:
    """(component, block, kind) of a layer name that stands in a block of a family, None for every other."""
    component, path = split_name(name)
    place = next((place for family in FAMILIES.values() if (place := family.locate(path)) is not None), None)
    return None if place is None else (component, *place)


def canonical_pairs(pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """Pairs by module path in either spelling of any family -> by diffusers' path; other names stay as they are."""
    renamed = dict(pairs)
    for family in FAMILIES.values():
        theirs = {
            n: renamed.pop(n) for n in pairs if n in renamed and family.has_original(n) and not family.has_path(n)
        }
        renamed |= family.from_original(theirs)
    return renamed
