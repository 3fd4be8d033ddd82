"""LoFA: first the response map, then the adapter, which reads the response network's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.conditions import ConditionEncoder, Inputs
from lofa.hypernets.config import AdapterConfig, ResponseConfig
from lofa.hypernets.layers import FrozenLayer, Prepared, prepare
from lofa.hypernets.networks import AdapterNet, Response, ResponseNet
from lofa.hypernets.protocol import Hypernetwork, Part

__all__ = ["TwoStage"]


@dataclass(frozen=True, eq=False)
class _Prepared:
    response: list[Prepared]
    adapter: list[Prepared]


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

    def prepare(self, layers: Iterable[FrozenLayer], kept: list[Prepared] | None = None) -> _Prepared:
        parts = self.parts()
        if "adapter" not in parts:
            (response,) = prepare([parts["response"].network], layers)
            return _Prepared(response, [])
        if kept is None:
            response, adapter = prepare([part.network for part in parts.values()], layers)
            return _Prepared(response, adapter)
        (adapter,) = prepare([parts["adapter"].network], layers)
        known = {one.shape: one for one in kept}
        return _Prepared([known[one.shape].select(one.layers) for one in adapter], adapter)

    @torch.no_grad()
    def keep(self, layers: Iterable[FrozenLayer]) -> list[Prepared]:
        (response,) = prepare([self.parts()["response"].network], layers)
        return response

    def response(self, prepared: _Prepared, inputs: Inputs) -> list[Response]:
        part = self.parts()["response"]
        read = part.read(inputs)
        return [part.network.respond(one, *read) for one in prepared.response]

    def predict(self, prepared: _Prepared, inputs: Inputs, responses: list[Response] | None = None) -> list[LoraBatch]:
        part = self.parts()["adapter"]
        read = part.read(inputs)
        tokens = self._tokens(prepared, inputs) if responses is None else [one.tokens for one in responses]
        return [part.network.adapt(one, *read, own) for one, own in zip(prepared.adapter, tokens, strict=True)]

    @torch.no_grad()
    def _tokens(self, prepared: _Prepared, inputs: Inputs) -> list[Tensor]:
        part = self.parts()["response"]
        read = part.read(inputs)
        return [part.network.tokens(one, *read) for one in prepared.response]

    @property
    def tau(self) -> float:
        tau: float = self.parts()["response"].network.config.tau
        return tau
