"""LoFA: first the response map, then the adapter, which reads the response network's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch

from lofa.adapters import LoraBatch
from lofa.conditions import ConditionEncoder, Inputs
from lofa.hypernets.config import AdapterConfig, ResponseConfig
from lofa.hypernets.layers import FrozenLayer, Prepared, prepare
from lofa.hypernets.networks import AdapterNet, Response, ResponseNet
from lofa.hypernets.protocol import Hypernetwork, Part

__all__ = ["TwoStage"]


class TwoStage(Hypernetwork):
    """Parts: response and, once stage II is begun, adapter."""

    networks = {"response": ResponseNet, "adapter": AdapterNet}
    stages = {1: (), 2: ("response",)}
    has_response = True

    @classmethod
    def fresh(
        cls, stage: int, values: Mapping[str, Any], encoder: ConditionEncoder, earlier: Mapping[str, Part]
    ) -> Self:
        if stage == 1:
            return cls(response=Part(ResponseNet(ResponseConfig.pick(values)), encoder))
        config = AdapterConfig.pick({**values, "response_width": earlier["response"].network.config.d_model})
        return cls(response=earlier["response"], adapter=Part(AdapterNet(config), encoder))

    def prepare(self, layers: Iterable[FrozenLayer], kept: list[Prepared] | None = None) -> dict[str, list[Prepared]]:
        parts = self.parts()
        names = list(parts) if kept is None else ["adapter"]
        made = dict(zip(names, prepare([parts[name].network for name in names], layers), strict=True))
        if kept is not None:
            known = {one.shape: one for one in kept}
            made["response"] = [known[one.shape].select(one.layers) for one in made["adapter"]]
        return made

    @torch.no_grad()
    def keep(self, layers: Iterable[FrozenLayer]) -> list[Prepared]:
        (response,) = prepare([self.parts()["response"].network], layers)
        return response

    def response(self, prepared: dict[str, list[Prepared]], inputs: Inputs) -> list[Response]:
        part = self.parts()["response"]
        read = part.read(inputs)
        return [part.network.respond(one, *read) for one in prepared["response"]]

    def predict(
        self, prepared: dict[str, list[Prepared]], inputs: Inputs, responses: list[Response] | None = None
    ) -> list[LoraBatch]:
        first, part = self.parts()["response"], self.parts()["adapter"]
        if responses is not None:
            tokens = [one.tokens for one in responses]
        else:
            with torch.no_grad():
                asked = first.read(inputs)
                tokens = [first.network.tokens(one, *asked) for one in prepared["response"]]
        read = part.read(inputs)
        return [part.network.adapt(one, *read, own) for one, own in zip(prepared["adapter"], tokens, strict=True)]

    @property
    def tau(self) -> float:
        tau: float = self.parts()["response"].network.config.tau
        return tau
