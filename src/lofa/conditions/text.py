"""Text: the backbone's own text encoder has already made tokens of the prompt, so nothing is left to learn here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lofa.conditions.condition import Padded, Tokens
from lofa.conditions.kind import ConditionEncoder, ConditionKind, PromptEncoder

__all__ = ["Text", "TextEncoder"]


class TextEncoder(ConditionEncoder):
    """Hands text tokens through. `width` is their feature count `C`."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def config(self) -> dict[str, int]:
        """Constructor values."""
        return {"width": self.width}

    def encode(self, rows: Padded) -> Tokens:
        """Text tokens `(P, N, C)`, unchanged."""
        return Tokens(rows.values, rows.lengths)


class Text(ConditionKind):
    """The prompt in words; rows `(N, C)` are the backbone's condition tokens, which also steer the backbone itself."""

    name, argument, encoder = "text", "prompt", TextEncoder

    def facts(self, backbone: PromptEncoder, row: Tensor) -> dict[str, int]:
        return {"width": backbone.condition_width}

    def read(self, values: Sequence[Any], backbone: PromptEncoder, config: Mapping[str, Any]) -> list[Tensor]:
        condition = backbone.encode_prompt(list(values))
        return [condition.row(i).float() for i in range(len(condition))]

    def own(self, caption: str, stored: Callable[[], Tensor]) -> str:
        return caption

    def metadata(self, value: Any) -> dict[str, str]:
        return {"prompt": str(value)}

    def pack(self, row: Tensor, dtype: torch.dtype) -> Tensor:
        return row.to(dtype)
