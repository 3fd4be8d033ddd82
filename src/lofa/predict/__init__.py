"""From a prompt to an adapter, and the files of a trained predictor."""

from lofa.predict.predictor import Predictor
from lofa.predict.stages import (
    Description,
    find_predictor,
    load_hypernet,
    load_part,
    read_description,
    save_predictor,
)

__all__ = [
    "Description",
    "Predictor",
    "find_predictor",
    "load_hypernet",
    "load_part",
    "read_description",
    "save_predictor",
]
