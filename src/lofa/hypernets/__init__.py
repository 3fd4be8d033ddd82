"""The two hypernetworks: frozen weights and a condition -> response map (stage I), adapter (stage II)."""

from torch import nn

from lofa.hypernets.attention import ATTENTION, use_attention
from lofa.hypernets.compiled import compile_blocks
from lofa.hypernets.response import Response, ResponseNet
from lofa.hypernets.trunk import Prepared
from lofa.hypernets.weights import AdapterNet, WeightPrediction

__all__ = [
    "ATTENTION",
    "NETWORKS",
    "AdapterNet",
    "Prepared",
    "Response",
    "ResponseNet",
    "WeightPrediction",
    "compile_blocks",
    "use_attention",
]

NETWORKS: dict[str, type[nn.Module]] = {"ResponseNet": ResponseNet, "AdapterNet": AdapterNet}
"""The networks a saved predictor may name; each has a json-able `.config` of its constructor values."""
