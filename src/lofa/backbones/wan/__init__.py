"""Wan 2.1 and 2.2, text to video."""

from lofa.backbones.wan.architecture import Architecture, wan_layers
from lofa.backbones.wan.backbone import WanBackbone

__all__ = ["Architecture", "WanBackbone", "wan_layers"]
