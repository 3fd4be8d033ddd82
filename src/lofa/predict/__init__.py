"""From a prompt to an adapter, and the files of a trained predictor."""

from lofa.predict.predictor import Predictor
from lofa.predict.stages import Description, Stage, find_predictor, load_response, read_description, save_predictor

__all__ = ["Description", "Predictor", "Stage", "find_predictor", "load_response", "read_description", "save_predictor"]
