"""A kind of condition in one file: pictures (n, H, W, 3) of one subject, each a token of its mean colour."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lofa.conditions import ConditionEncoder, ConditionKind, Padded, PromptEncoder, Tokens


class ImageEncoder(ConditionEncoder):
    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(3, width)

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width}

    def encode(self, rows: Padded) -> Tokens:
        real = torch.arange(rows.values.shape[1]) < rows.lengths[:, None]
        colours = rows.values.float().mean((2, 3)) / 255
        return Tokens(torch.where(real[..., None], self.project(colours), 0.0), rows.lengths)


class Image(ConditionKind):
    name, argument, encoder = "image", "image", ImageEncoder

    def facts(self, backbone: PromptEncoder, row: Tensor) -> dict[str, int]:
        return {}

    def read(self, values: Sequence[Any], backbone: PromptEncoder, config: Mapping[str, Any]) -> list[Tensor]:
        return [torch.from_numpy(np.stack(one) if isinstance(one, list) else one[None]) for one in values]

    def is_many(self, value: object) -> bool:
        return isinstance(value, list) and bool(value) and isinstance(value[0], list)
