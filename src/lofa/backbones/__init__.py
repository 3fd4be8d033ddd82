"""Backbones: frozen generators on diffusers classes, behind one contract."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.backbones.base import Backbone, Sampling
    from lofa.backbones.config import BackboneConfig, known_backbones, read_config
    from lofa.backbones.fingerprint import Fingerprinted
    from lofa.backbones.load import backbone_folder, bare_backbone, load_backbone
    from lofa.backbones.merge import WeightFolder, check_merge_target, merge_adapter, merged_adapters
    from lofa.backbones.networks import Adapters, LayerSpec, by_shape
else:
    __getattr__, __dir__ = lazy(__name__, "config base fingerprint load merge networks")

__all__ = [
    "Adapters",
    "Backbone",
    "BackboneConfig",
    "Fingerprinted",
    "LayerSpec",
    "Sampling",
    "WeightFolder",
    "backbone_folder",
    "bare_backbone",
    "by_shape",
    "check_merge_target",
    "known_backbones",
    "load_backbone",
    "merge_adapter",
    "merged_adapters",
    "read_config",
]
