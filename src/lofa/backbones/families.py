"""The model families: one folder each, and one line here."""

from lofa.backbones.family import Family
from lofa.backbones.wan import WAN

__all__ = ["FAMILIES"]

FAMILIES: dict[str, Family] = {family.name: family for family in (WAN,)}
