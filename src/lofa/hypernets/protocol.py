"""What every hypernetwork offers: frozen weights once, then adapters of any prompts.

    prepared = hypernetwork.prepare(layers)             once for the frozen weights
    adapters = hypernetwork.predict(prepared, inputs)   of P prompts, the layers of each shape by themselves

A hypernetwork consists of parts, each a network and the condition encoder trained with it, in the order in which they
are trained. The last part is trained; those before it were trained by earlier runs, and are frozen here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.conditions import ConditionEncoder, Inputs, Tokens
from lofa.hypernets.blocks import Block, ReadBlock
from lofa.hypernets.layers import FrozenLayer
from lofa.hypernets.networks import Response

__all__ = ["Hypernetwork", "Part"]


class Part(nn.Module):
    """A network and the condition encoder trained with it: one file of a predictor."""

    def __init__(self, network: nn.Module, encoder: ConditionEncoder) -> None:
        super().__init__()
        self.network: Any = network
        self.encoder: ConditionEncoder = encoder

    def read(self, inputs: Inputs) -> Tokens:
        """Tokens of the conditions of P prompts."""
        read: Tokens = self.encoder(inputs)
        return read


class Hypernetwork(nn.Module, ABC):
    """A member of `HYPERNETS`, around parts that are built.

    Parameters, state and sharding are those of the last part alone; moving it to a device moves all parts.
    """

    networks: ClassVar[Mapping[str, type]]
    """name of each part -> class of its network, made of a dataclass, its `Config`, which it holds as `.config`"""
    stages: ClassVar[Mapping[int, tuple[str, ...]]]
    """training stages (1: response map, 2: adapter) -> the parts that each needs from an earlier run"""
    has_response = False
    """whether there is a response map"""

    def __init__(self, **parts: Part) -> None:
        super().__init__()
        *before, last = parts
        self._frozen = {name: parts[name].requires_grad_(False).eval() for name in before}  # no dict is searched
        self._last = last
        self.trained = parts[last]

    @classmethod
    @abstractmethod
    def fresh(
        cls, stage: int, values: Mapping[str, Any], encoder: ConditionEncoder, earlier: Mapping[str, Part]
    ) -> Self:
        """An untrained one, for a stage of training.

        stage: a key of `stages`. values: constructor values, of which each network takes its own. encoder: of the
        condition, for the last part. earlier: the parts that the stage needs.
        Raises ValueError and TypeError on values that do not fit or are missing.
        """

    @abstractmethod
    def prepare(self, layers: Iterable[FrozenLayer], kept: Any = None) -> Any:
        """What depends on the frozen weights alone; it holds as long as the parameters do.

        Each W is read once, and no stack of all of them is made. kept: what `keep` gave for these or more layers.
        Raises ValueError on layers that do not fit.
        """

    def keep(self, layers: Iterable[FrozenLayer]) -> Any:
        """The part of `prepare` that training does not change, for all layers that may be asked for."""
        return None

    @abstractmethod
    def predict(self, prepared: Any, inputs: Inputs, responses: list[Response] | None = None) -> list[LoraBatch]:
        """Adapters of P prompts on all prepared layers: one batch a shape, shapes in the order of their first layer.

        responses: what `response` gave for the same, where it is at hand.
        """

    def response(self, prepared: Any, inputs: Inputs) -> list[Response]:
        """The response map of P prompts, layers as in `predict`; ValueError where there is none."""
        raise ValueError(f"a {type(self).__name__} has no response map")

    @property
    def tau(self) -> float:
        """Relative change of a weight that counts as a response."""
        return 0.02

    @property
    def encoder(self) -> ConditionEncoder:
        """Of the conditions that it reads."""
        return self.trained.encoder

    def parts(self) -> dict[str, Part]:
        """All parts by name, in the order of their training."""
        return {**self._frozen, self._last: self.trained}

    def units(self) -> list[nn.Module]:
        """The modules to shard one by one: the encoder and the blocks."""
        blocks = [module for module in self.trained.network.modules() if isinstance(module, Block | ReadBlock)]
        return [*([self.encoder] if any(True for _ in self.encoder.parameters()) else []), *blocks]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for part in self._frozen.values():
            part._apply(fn, recurse)
        return super()._apply(fn, recurse)
