"""Hypernetworks: frozen weights and a condition -> adapters, and for some kinds a response map."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.hypernets.attention import ATTENTION, use_attention
    from lofa.hypernets.blocks import compile_blocks
    from lofa.hypernets.config import AdapterConfig, HypernetOptions, ResponseConfig, TrunkConfig
    from lofa.hypernets.heads import HEADS
    from lofa.hypernets.layers import FrozenLayer, Prepared
    from lofa.hypernets.networks import AdapterNet, Response, ResponseNet
    from lofa.hypernets.protocol import Hypernetwork, Part
    from lofa.hypernets.single_stage import SingleStage
    from lofa.hypernets.table import HYPERNETS
    from lofa.hypernets.two_stage import TwoStage
else:
    __getattr__, __dir__ = lazy(
        __name__, "config attention blocks heads layers networks protocol table single_stage two_stage"
    )

__all__ = [
    "ATTENTION",
    "HEADS",
    "HYPERNETS",
    "AdapterConfig",
    "AdapterNet",
    "FrozenLayer",
    "HypernetOptions",
    "Hypernetwork",
    "Part",
    "Prepared",
    "Response",
    "ResponseConfig",
    "ResponseNet",
    "SingleStage",
    "TrunkConfig",
    "TwoStage",
    "compile_blocks",
    "use_attention",
]
