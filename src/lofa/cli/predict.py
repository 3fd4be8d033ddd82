"""lofa predict: a prompt or pose sequence -> an adapter file."""

from dataclasses import dataclass
from omegaconf import MISSING
from lofa.cli.command import Command
from lofa.cli.options import option, text

@dataclass
class PredictConfig:
    predictor: str = text(MISSING, "run or predictor directory")
    prompt: str | None = text(None, "what the adapter is for")
    out: str = text("adapter.safetensors", "file")
    strength: float = option(1.0, "x")

def predict(c):
    print(repr(c.prompt), repr(c.predictor), c.strength)

COMMAND = Command("predict", PredictConfig, predict, "x", ("lofa predict",))
