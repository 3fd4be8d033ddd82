"""The recipe that makes the shipped tiny models from nothing."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.pretrain.options import Recipe, Schedule
    from lofa.pretrain.recipe import pretrain
else:
    __getattr__, __dir__ = lazy(__name__, "options recipe")

__all__ = ["Recipe", "Schedule", "pretrain"]
