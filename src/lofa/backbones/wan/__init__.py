"""Wan 2.1 and 2.2, text to video."""

from lofa.backbones.family import Family
from lofa.backbones.wan.architecture import ATTENTION_KINDS, Architecture, wan_layers
from lofa.backbones.wan.backbone import WAN_SAMPLING, WanBackbone

__all__ = ["ATTENTION_KINDS", "WAN", "WAN_SAMPLING", "Architecture", "WanBackbone", "wan_layers"]

WAN = Family("wan", ("WanPipeline",), ATTENTION_KINDS, WAN_SAMPLING, WanBackbone)
