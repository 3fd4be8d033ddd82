"""What the LightningModules take from a data loader, by shape alone: whoever yields this can train them."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.conditions import Condition
from lofa.hypernets import Inputs

__all__ = ["PairedBatch", "inputs_of"]


class PairedBatch(Protocol):
    """P prompts with their true adapters.

    Attributes:
        ids: P sample ids
        values: (P, N, ...) what the condition encoder takes: text tokens (P, N, C) or joints (P, T, J, 2), zero padded
        lengths: (P,) int64, real entries of each row of `values`
        prompt: the backbone's own text condition of the P captions
        latents: (P, C, T, H, W), or None where only adapters are needed (stage I)
        stacks: the adapters, the layers of each shape by themselves
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def values(self) -> Tensor: ...
    @property
    def lengths(self) -> Tensor: ...
    @property
    def prompt(self) -> Condition: ...
    @property
    def latents(self) -> Tensor | None: ...
    @property
    def stacks(self) -> Sequence[LoraBatch]: ...


def inputs_of(batch: PairedBatch) -> Inputs:
    """What a hypernetwork reads of a batch."""
    return batch.values, batch.lengths
