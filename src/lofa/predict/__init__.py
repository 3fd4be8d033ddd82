"""From a prompt to an adapter, and the files of a trained predictor."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.predict.predictor import Predictor
    from lofa.predict.stages import load_part, read_description, save_predictor
else:
    __getattr__, __dir__ = lazy(__name__, "predictor stages")

__all__ = ["Predictor", "load_part", "read_description", "save_predictor"]
