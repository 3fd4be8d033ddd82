"""What an adapter is predicted from and a backbone is steered by.

    Inputs      kind -> Padded: conditions as they are read, text tokens (P, N, C), joints (P, T, J, 2) ...
    Tokens      what an encoder makes of them for a hypernetwork
    Condition   what a backbone is steered by: tokens of the prompt, and what else its family needs

Rows have different lengths, so a batch pads them with zeros to `(B, N, ...)` and keeps `lengths`; whoever attends to
the tokens masks by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Condition", "Inputs", "Padded", "Tokens", "pad_rows"]


@dataclass(frozen=True)
class Padded:
    """`P` rows of one kind of condition."""

    values: Tensor
    """(P, N, ...), zero from a row's length on"""
    lengths: Tensor
    """(P,) int64, each in 0..N; 0: the sample goes without this kind"""

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Padded:
        """Both tensors on another device."""
        values, lengths = (value.to(device, non_blocking=non_blocking) for value in (self.values, self.lengths))
        return Padded(values, lengths)


Inputs = Mapping[str, Padded]
"""Conditions of P samples, kind (a key of `CONDITIONS`) -> rows."""


class Tokens(NamedTuple):
    """Condition tokens of P samples, as a hypernetwork attends to them."""

    tokens: Tensor
    """(P, N, C), zero from a row's length on"""
    lengths: Tensor
    """(P,) int64"""


def pad_rows(rows: Sequence[Tensor]) -> Padded:
    """Rows `(n_i, ...)` -> zero-padded `(B, max n_i, ...)` and their lengths; ValueError where other axes differ."""
    trailing = {tuple(row.shape[1:]) for row in rows}
    if len(trailing) != 1:
        raise ValueError(f"rows of one batch must agree in all but their length; got {sorted(trailing)}")
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return Padded(padded, torch.tensor([len(row) for row in rows], device=padded.device))


@dataclass(frozen=True)
class Condition:
    """Condition tokens of `B` prompts.

    tokens: `(B, N, C)`, zero from a row's length on.
    lengths: `(B,)` int64, each in 1..N.
    extras: what else a backbone family needs, each `(B, ...)`: a pooled text vector, image sizes.
    """

    tokens: Tensor
    lengths: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor], extras: Mapping[str, Tensor] | None = None) -> Condition:
        """Batch of unpadded rows `(n_i, C)`."""
        padded = pad_rows(rows)
        return cls(padded.values, padded.lengths, dict(extras or {}))

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Condition:
        """The rows a slice or an index tensor picks, as a Condition of the same padded width."""
        picked = {name: value[index] for name, value in self.extras.items()}
        return Condition(self.tokens[index], self.lengths[index], picked)

    def row(self, i: int) -> Tensor:
        """Row `i` without padding: `(n_i, C)`."""
        return self.tokens[i, : int(self.lengths[i])]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Condition:
        """Moved to a device; `dtype` applies to tokens and floating extras, never to lengths."""

        def move(value: Tensor) -> Tensor:
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        extras = {name: move(value) for name, value in self.extras.items()}
        return Condition(move(self.tokens), self.lengths.to(device=device), extras)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """One Condition holding all rows in order; all parts carry the same extras."""
        rows = [part.row(i) for part in conditions for i in range(len(part))]
        extras = {name: torch.cat([part.extras[name] for part in conditions]) for name in conditions[0].extras}
        return Condition.from_rows(rows, extras)
