"""The adapted layers of a UNet2DConditionModel, read off the network itself, made without memory on the meta device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lofa.adapters.families.sdxl import SDXL
from lofa.adapters.names import join_name
from lofa.backbones.networks import LayerSpec
from lofa.errors import BackboneError

__all__ = ["ATTENTION_KINDS", "unet_layers"]

ATTENTION_KINDS = tuple(kind for kind in SDXL.kinds if kind.startswith(("attn1.to_", "attn2.to_")))
"""The layers LoFA adapts: q, k, v, o of self- and cross-attention."""


def unet_layers(config: Mapping[str, Any], kinds: Sequence[str]) -> list[LayerSpec]:
    """The layers of those kinds, block by block as data pass them; depth counts the transformer blocks.

    Raises:
        BackboneError: a kind that there is not, or a UNet without such layers.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(dict(config))
    found: dict[str, dict[str, nn.Linear]] = {}
    for path, module in network.named_modules():
        place = SDXL.locate(path) if isinstance(module, nn.Linear) else None
        if place is not None:
            found.setdefault(place[0], {})[place[1]] = module
    order = sorted(found, key=lambda block: ("dmu".index(block[0]), [int(n) for n in block.split(".") if n.isdigit()]))
    unknown = [kind for kind in kinds if not order or kind not in found[order[0]]]
    if unknown:
        there = ", ".join(found[order[0]]) if order else "none"
        raise BackboneError(f"backbone.kinds: no linear layer {unknown[0]!r}; there are {there}")
    return [
        LayerSpec(
            join_name("unet", f"{block}.{kind}"),
            depth,
            kind,
            found[block][kind].out_features,
            found[block][kind].in_features,
        )
        for depth, block in enumerate(order)
        for kind in kinds
    ]
