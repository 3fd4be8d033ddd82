"""Adapters (low-rank weight updates), their files, and the slots that put them on a network."""

from lofa.adapters.adapter import Adapter, stack_adapters, unstack
from lofa.adapters.lowrank import AdapterBatch, LowRank, LowRankBatch
from lofa.adapters.slots import SlotLinear, Slots

__all__ = ["Adapter", "AdapterBatch", "LowRank", "LowRankBatch", "SlotLinear", "Slots", "stack_adapters", "unstack"]
