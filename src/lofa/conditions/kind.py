"""What a kind of condition is: how a user gives it, how files and batches hold it, which encoder makes tokens of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lofa.conditions.condition import Condition, Inputs, Padded, Tokens, pad_rows

__all__ = ["ConditionEncoder", "ConditionKind", "PromptEncoder"]


class PromptEncoder(Protocol):
    """What a kind may ask of a backbone."""

    @property
    def condition_width(self) -> int: ...
    def encode_prompt(self, prompts: list[str]) -> Condition: ...


class ConditionEncoder(nn.Module, ABC):
    """Makes tokens of one kind of condition."""

    width: int
    """features `C` of a token"""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor values, fit for json."""

    @abstractmethod
    def encode(self, rows: Padded) -> Tokens:
        """Rows `(P, N, ...)`, each of at least 1 -> tokens `(P, N', width)`, zero padded."""

    def forward(self, inputs: Inputs) -> Tokens:
        """Tokens of the one kind that is given (ValueError: of several)."""
        (rows,) = inputs.values()
        return self.encode(rows)

    def part(self, kind: str) -> ConditionEncoder:
        """The encoder of a kind: this one."""
        return self


class ConditionKind(ABC):
    """A line of the table `CONDITIONS`.

    name: its key there, in a task's configuration and in `Inputs`. argument: of `Predictor.predict`.
    encoder: class of the encoder, unless a task names another.
    """

    name: ClassVar[str]
    argument: ClassVar[str]
    encoder: ClassVar[type[ConditionEncoder]]

    @property
    def key(self) -> str:
        """Name of its tensor in the encoded files."""
        return f"condition.{self.name}"

    @abstractmethod
    def facts(self, backbone: PromptEncoder, row: Tensor) -> dict[str, int]:
        """Constructor values of the encoder that follow from the backbone, or from a row `(n, ...)` of the data."""

    @abstractmethod
    def read(self, values: Sequence[Any], backbone: PromptEncoder, config: Mapping[str, Any]) -> list[Tensor]:
        """Rows `(n_i, ...)` of values as a user gives them, for an encoder of these constructor values.

        LofaError naming the argument or file: a value that can't be read, or doesn't fit the encoder.
        """

    def is_many(self, value: object) -> bool:
        """Whether a user gives several values of the kind at once."""
        return isinstance(value, list | tuple)

    def own(self, caption: str, stored: Callable[[], Tensor]) -> Any:
        """The value of a prepared sample, as `read` takes it; `stored` reads the row of its encoded file."""
        return stored()

    def metadata(self, value: Any) -> dict[str, str]:
        """What an adapter's file says of the value it was predicted from."""
        return {}

    def pack(self, row: Tensor, dtype: torch.dtype) -> Tensor:
        """A row as it is stored in a set of `dtype`."""
        return row.float() if row.is_floating_point() else row

    def collate(self, rows: Sequence[Tensor]) -> Padded:
        """Rows of `P` samples as a batch."""
        return pad_rows(rows)
