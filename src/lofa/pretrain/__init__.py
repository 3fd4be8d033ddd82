"""The recipe that makes the shipped tiny models from nothing."""

from lofa.pretrain.fit import Schedule
from lofa.pretrain.recipe import Recipe, pretrain

__all__ = ["Recipe", "Schedule", "pretrain"]
