"""SDXL, text to image."""

from lofa.backbones.family import Family
from lofa.backbones.sdxl.architecture import ATTENTION_KINDS, unet_layers
from lofa.backbones.sdxl.backbone import SDXL_SAMPLING, SdxlBackbone

__all__ = ["SDXL", "SDXL_SAMPLING", "SdxlBackbone", "unet_layers"]

SDXL = Family("sdxl", ("StableDiffusionXLPipeline",), ATTENTION_KINDS, SDXL_SAMPLING, SdxlBackbone)
