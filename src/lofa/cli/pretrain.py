"""lofa pretrain: the shipped tiny models, from nothing."""

from pathlib import Path

from rich.console import Console

from lofa.cli.commands import PretrainConfig
from lofa.pretrain import pretrain as make_models

__all__ = ["pretrain"]


def pretrain(config: PretrainConfig) -> None:
    """Makes the models, or what is missing of them."""
    make_models(Path(config.out), config.recipe, Console())
