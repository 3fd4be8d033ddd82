"""The model families: one folder each, and one line here."""

from lofa.backbones.base import Backbone
from lofa.backbones.sdxl import SdxlBackbone
from lofa.backbones.wan import WanBackbone

__all__ = ["FAMILIES"]

FAMILIES: dict[str, type[Backbone]] = {"wan": WanBackbone, "sdxl": SdxlBackbone}
"""What `backbone.family` calls a family -> its backbones."""
