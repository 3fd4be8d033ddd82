"""lofa pretrain: the shipped tiny models, from nothing."""

from pathlib import Path
from typing import Any

from rich.console import Console

from lofa.cli.options import build
from lofa.pretrain import pretrain as make_models

__all__ = ["pretrain"]


def pretrain(config: Any) -> None:
    """Makes the models, or what is missing of them."""
    make_models(Path(config.out), build(config, "recipe"), Console())
