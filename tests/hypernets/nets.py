"""Small networks and inputs in float64 for the tests of this room."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import AdapterConfig, AdapterNet, FrozenLayer, Prepared, Response, ResponseConfig, ResponseNet
from lofa.hypernets.layers import prepare

Net = TypeVar("Net", ResponseNet, AdapterNet)
SIZES: dict[str, Any] = {
    "shapes": [[12, 8]],
    "num_depths": 3,
    "num_kinds": 2,
    "context_width": 5,
    "patch_size": 4,
    "d_model": 16,
    "n_heads": 2,
    "n_blocks": 3,
    "lora_rank": 2,
}


@dataclass
class Inputs:
    """P = 3 prompts, L = 6 layers."""

    weights: Tensor
    depth: Tensor
    kind: Tensor
    context: Tensor
    lengths: Tensor

    @classmethod
    def make(cls) -> "Inputs":
        torch.manual_seed(1)
        lengths = torch.tensor([4, 7, 2])
        context = torch.randn(3, 7, 5).double()
        context[torch.arange(7) >= lengths[:, None]] = 0
        return cls(torch.randn(6, 12, 8).double(), torch.arange(6) // 2, torch.arange(6) % 2, context, lengths)

    def frozen(self) -> list[FrozenLayer]:
        ids = zip(self.weights, self.depth.tolist(), self.kind.tolist(), strict=True)
        return [FrozenLayer(f"layer.{number}", *own) for number, own in enumerate(ids)]

    def prompts(self, index: slice) -> "Inputs":
        return Inputs(self.weights, self.depth, self.kind, self.context[index], self.lengths[index])

    def layers(self, index: Tensor) -> "Inputs":
        return Inputs(self.weights[index], self.depth[index], self.kind[index], self.context, self.lengths)


def prepared(net: Any, inputs: Inputs) -> Prepared:
    ((one,),) = prepare([net], inputs.frozen())
    return one


def run(net: Any, inputs: Inputs, tokens: Tensor | None = None) -> Any:
    """Response, or adapters where the network makes some."""
    kept, condition = prepared(net, inputs), (inputs.context, inputs.lengths)
    if hasattr(net, "respond"):
        response: Response = net.respond(kept, *condition)
        return response
    adapters: LoraBatch = net.adapt(kept, *condition, tokens)
    return adapters


def response_net(**values: Any) -> ResponseNet:
    torch.manual_seed(2)
    return stirred(ResponseNet(ResponseConfig(**(SIZES | values))).double())


def adapter_net(**values: Any) -> AdapterNet:
    torch.manual_seed(3)
    return stirred(
        AdapterNet(AdapterConfig(**(SIZES | {"response_width": 16, "read_after": (0, 2)} | values))).double()
    )


def stirred(net: Net) -> Net:
    """Heads that start at zero moved off it, so that laws are tested where they could fail."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("head.B", "head.scale")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net
