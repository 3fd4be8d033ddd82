"""lofa pretrain: the shipped tiny models, from nothing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lofa.cli.command import Command
from lofa.cli.options import build, section, text
from lofa.pretrain import Recipe
from lofa.pretrain import pretrain as make_models

__all__ = ["COMMAND", "PretrainConfig"]


@dataclass
class PretrainConfig:
    """Keys of lofa pretrain."""

    out: str = text("pretrained", "folder that gets tiny-wan/ and tiny-metrics/; parts that are there are kept")
    recipe: Any = field(default_factory=section(Recipe))


def pretrain(config: Any) -> None:
    """Makes the models, or what is missing of them."""
    make_models(Path(config.out), build(Recipe, config.recipe), Console())


COMMAND = Command(
    "pretrain",
    PretrainConfig,
    pretrain,
    "make the shipped tiny models from nothing (about an hour on two cores)",
    ("lofa pretrain out=pretrained", "lofa pretrain out=quick recipe.transformer.steps=100"),
    sections=("recipe",),
)
