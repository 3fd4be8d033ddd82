"""Commands that make what training needs: prepare, zoo, pretrain."""

from pathlib import Path

from rich.console import Console

from lofa import pretrain as recipes
from lofa import workflows
from lofa.cli.commands import PrepareConfig, PretrainConfig, ZooConfig
from lofa.cli.objects import find_set, open_backbone
from lofa.data import PrepareReport
from lofa.data import prepare as prepare_set
from lofa.zoo import ZooAudit, ZooReport

__all__ = ["prepare", "pretrain", "zoo"]


def prepare(config: PrepareConfig) -> PrepareReport:
    """Clips, captions and joints -> a data set of encoded samples."""
    return prepare_set(config.source, find_set(config), open_backbone(config), config.prepare)


def pretrain(config: PretrainConfig) -> None:
    """Makes the shipped tiny models, or what is missing of them."""
    recipes.pretrain(Path(config.out), config.recipe, Console())


def zoo(config: ZooConfig) -> ZooReport | ZooAudit:
    """Trains the LoRAs of the set `data`, or of one shard of them, or checks them."""
    set_dir, backbone = find_set(config), open_backbone(config)
    if config.action == "verify":
        return workflows.check_zoo(set_dir, backbone, config.zoo)
    return workflows.train_zoo(set_dir, backbone, config.zoo, retry=config.action == "retry")
