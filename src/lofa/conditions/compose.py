"""Several conditions of a sample as one row of tokens.

    c = [E_1(x_1) + k_1 | E_2(x_2) + k_2 | ...]        E the kinds' encoders, k a learned vector a kind

Rows are joined without padding in between. A kind that a sample goes without is left out of its row, so a hypernetwork
can be asked with any of the kinds it was trained with, if it saw samples that go without some (`drop_kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lofa.conditions.condition import Inputs, Padded, Tokens
from lofa.conditions.kind import ConditionEncoder

__all__ = ["ComposedEncoder", "compose", "drop_kinds"]


class ComposedEncoder(ConditionEncoder):
    """Reads several kinds, each through its own encoder.

    encoders: kind -> its encoder; all of one width.
    Raises ValueError where the widths differ.
    """

    def __init__(self, encoders: Mapping[str, ConditionEncoder]) -> None:
        super().__init__()
        widths = {kind: encoder.width for kind, encoder in encoders.items()}
        if len(set(widths.values())) != 1:
            found = ", ".join(f"{kind} {width}" for kind, width in widths.items())
            raise ValueError(f"tokens of all conditions must be of one width; got {found}")
        (self.width,) = set(widths.values())
        self.encoders = nn.ModuleDict(encoders)
        self.kinds = nn.ParameterDict({kind: nn.Parameter(0.02 * torch.randn(self.width)) for kind in encoders})

    @property
    def config(self) -> dict[str, Any]:
        """Constructor values of each kind's encoder."""
        return {kind: self.part(kind).config for kind in self.encoders}

    def part(self, kind: str) -> ConditionEncoder:
        """The encoder of a kind."""
        encoder = self.encoders[kind]
        assert isinstance(encoder, ConditionEncoder)
        return encoder

    def encode(self, rows: Padded) -> Tokens:
        raise TypeError("several encoders read no rows without their kind")

    def forward(self, inputs: Inputs) -> Tokens:
        """Joined tokens of the kinds that are given, at least one a sample; a row of length 0 is left out."""
        tokens, real = [], []
        for kind in self.encoders:
            if kind not in inputs:
                continue
            rows = inputs[kind]
            filled = Padded(rows.values, rows.lengths.clamp_min(1))  # encoders take no empty rows
            own, lengths = self.part(kind)({kind: filled})
            lengths = torch.where(rows.lengths > 0, lengths, 0)
            tokens.append(own + self.kinds[kind])
            real.append(torch.arange(own.shape[1], device=own.device) < lengths[:, None])
        joined, counts = torch.cat(tokens, 1), torch.cat(real, 1)
        lengths = counts.sum(1)
        order = torch.argsort((~counts).long(), dim=1, stable=True)[:, : int(lengths.max())]
        kept = torch.where(counts[..., None], joined, 0.0).gather(1, order[..., None].expand(-1, -1, self.width))
        return Tokens(kept, lengths)


def compose(encoders: Mapping[str, ConditionEncoder]) -> ConditionEncoder:
    """One encoder of all these kinds; of one kind its own, as it is (ValueError: widths that differ)."""
    return ComposedEncoder(encoders) if len(encoders) > 1 else next(iter(encoders.values()))


def drop_kinds(inputs: Inputs, probability: float, generator: torch.Generator | None = None) -> Inputs:
    """Each kind left out of each sample with a probability, but never all kinds of a sample.

    generator: of the draws, on the CPU; None: torch's own.
    """
    if probability == 0 or len(inputs) < 2:
        return inputs
    count = len(next(iter(inputs.values())))
    draws = torch.rand(count, len(inputs), generator=generator)
    kept = (draws >= probability) | (draws == draws.amax(1, keepdim=True))
    return {
        kind: Padded(rows.values, torch.where(keep.to(rows.lengths.device), rows.lengths, 0))
        for (kind, rows), keep in zip(inputs.items(), kept.unbind(1), strict=True)
    }
