"""What training takes: P prompts with their true LoRAs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.conditions import Condition, Inputs

__all__ = ["ZooBatch"]


@dataclass(frozen=True)
class ZooBatch:
    """P prompts paired with precomputed LoRAs."""

    ids: list[str]
    """P ids of the samples the LoRAs are anchored at"""
    inputs: Inputs
    """kind of condition -> what its encoder takes: text tokens (P, N, C), joints (P, T, J, 2) ..."""
    prompt: Condition
    """the backbone's text condition of the same P clips"""
    latents: Tensor | None
    """(P, C, T, H, W); None where only LoRAs are asked for (stage I)"""
    stacks: list[LoraBatch]
    """the LoRAs, the layers of each shape by themselves; smaller ranks are padded with zeros"""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ZooBatch":
        """Every tensor on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            inputs={kind: rows.to(device, non_blocking) for kind, rows in self.inputs.items()},
            prompt=self.prompt.to(device),
            latents=None if self.latents is None else move(self.latents),
            stacks=[replace(s, A=move(s.A), B=move(s.B), alpha=move(s.alpha)) for s in self.stacks],
        )
