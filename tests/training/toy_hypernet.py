"""A hypernetwork of a kind of its own: the mean of the condition's tokens, and of each W, through one linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.conditions import ConditionEncoder, Inputs
from lofa.hypernets import HYPERNETS, FrozenLayer, Hypernetwork, Part


@dataclass(frozen=True)
class ToyConfig:
    shapes: tuple[tuple[int, int], ...]
    context_width: int
    lora_rank: int


class ToyNet(nn.Module):
    Config = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = ToyConfig(tuple(map(tuple, config.shapes)), config.context_width, config.lora_rank)
        self.heads = nn.ModuleDict(
            {f"{rows}x{columns}": nn.Linear(config.context_width + 1, config.lora_rank * (rows + columns))
             for rows, columns in self.config.shapes}
        )  # fmt: skip


class Toy(Hypernetwork):
    networks = {"adapter": ToyNet}
    stages = {2: ()}

    @classmethod
    def fresh(
        cls, stage: int, values: Mapping[str, Any], encoder: ConditionEncoder, earlier: Mapping[str, Part]
    ) -> Self:
        config = ToyConfig(*(values[name] for name in ("shapes", "context_width", "lora_rank")))
        return cls(adapter=Part(ToyNet(config), encoder))

    def prepare(self, layers: Iterable[FrozenLayer], kept: None = None) -> list[tuple[str, tuple[int, int], Tensor]]:
        return [(layer.name, layer.shape, layer.weight.mean()) for layer in layers]

    def predict(
        self, prepared: list[tuple[str, tuple[int, int], Tensor]], inputs: Inputs, responses: object = None
    ) -> list[LoraBatch]:
        tokens, lengths = self.trained.read(inputs)
        mean, made = tokens.sum(1) / lengths[:, None], []
        for shape in dict.fromkeys(shape for _, shape, _ in prepared):
            of = [(name, weight) for name, own, weight in prepared if own == shape]
            state = torch.cat([torch.cat([mean, weight.expand(len(mean), 1)], 1)[:, None] for _, weight in of], 1)
            rank, (rows, columns) = self.trained.network.config.lora_rank, shape
            flat = self.trained.network.heads[f"{rows}x{columns}"](state).unflatten(2, (rank, rows + columns))
            A, B = flat[..., rows:], flat[..., :rows].mT
            made.append(LoraBatch(A, B, torch.ones(A.shape[:2]), tuple(name for name, _ in of)))
        return made


HYPERNETS["toy"] = Toy
