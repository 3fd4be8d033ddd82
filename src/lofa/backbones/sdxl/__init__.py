"""SDXL, text to image."""

from lofa.backbones.sdxl.architecture import unet_layers
from lofa.backbones.sdxl.backbone import SdxlBackbone

__all__ = ["SdxlBackbone", "unet_layers"]
