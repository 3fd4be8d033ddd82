"""Adapters (low-rank weight updates), their files, and the slots that put them on a network."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.adapters.adapter import Adapter, stack_adapters, unstack
    from lofa.adapters.lowrank import AdapterBatch, LoraBatch, LowRank, LowRankBatch, merge_batches
    from lofa.adapters.slots import SlotLinear, Slots, own_rows
else:
    __getattr__, __dir__ = lazy(__name__, "names adapter lowrank slots")

__all__ = [
    "Adapter",
    "AdapterBatch",
    "LoraBatch",
    "LowRank",
    "LowRankBatch",
    "SlotLinear",
    "Slots",
    "merge_batches",
    "own_rows",
    "stack_adapters",
    "unstack",
]
