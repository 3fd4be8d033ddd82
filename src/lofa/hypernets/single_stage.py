"""The adapter at once, without a response map: the paper's ablation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from lofa.adapters import LoraBatch
from lofa.conditions import ConditionEncoder, Inputs
from lofa.hypernets.config import AdapterConfig
from lofa.hypernets.layers import FrozenLayer, Prepared, prepare
from lofa.hypernets.networks import AdapterNet
from lofa.hypernets.protocol import Hypernetwork, Part

__all__ = ["SingleStage"]


class SingleStage(Hypernetwork):
    """Part: adapter, whose network reads no other's tokens.

    Other kinds of one part are subclasses that name another network, or other values of it.
    """

    networks: ClassVar[Mapping[str, type]] = {"adapter": AdapterNet}
    stages = {2: ()}
    fixed: ClassVar[Mapping[str, Any]] = {"read_after": ()}
    """constructor values that the kind decides"""

    @classmethod
    def fresh(
        cls, stage: int, values: Mapping[str, Any], encoder: ConditionEncoder, earlier: Mapping[str, Part]
    ) -> Self:
        network = cls.networks["adapter"](AdapterConfig.pick({**values, **cls.fixed}))
        return cls(adapter=Part(network, encoder))

    def prepare(self, layers: Iterable[FrozenLayer], kept: None = None) -> list[Prepared]:
        (prepared,) = prepare([self.trained.network], layers)
        return prepared

    def predict(self, prepared: list[Prepared], inputs: Inputs, responses: object = None) -> list[LoraBatch]:
        read = self.trained.read(inputs)
        return [self.trained.network.adapt(one, *read) for one in prepared]
