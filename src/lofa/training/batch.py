"""What the LightningModules take from a data loader, by shape alone: whoever yields this can train them."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.conditions import Condition, Inputs

__all__ = ["PairedBatch"]


class PairedBatch(Protocol):
    """P prompts with their true adapters.

    Attributes:
        ids: P sample ids
        inputs: kind of condition -> what its encoder takes: text tokens (P, N, C), joints (P, T, J, 2) ...
        prompt: the backbone's own text condition of the P captions
        latents: (P, C, T, H, W), or None where only adapters are needed (stage I)
        stacks: the adapters, the layers of each shape by themselves
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def inputs(self) -> Inputs: ...
    @property
    def prompt(self) -> Condition: ...
    @property
    def latents(self) -> Tensor | None: ...
    @property
    def stacks(self) -> Sequence[LoraBatch]: ...
