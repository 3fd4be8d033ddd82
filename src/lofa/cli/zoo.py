"""lofa zoo: the per-sample LoRAs of a data set, many at once."""

from dataclasses import dataclass
from typing import Any

from lofa.backbones import Backbone
from lofa.cli.command import Command
from lofa.cli.objects import open_backbone, pick_device
from lofa.cli.options import build, option
from lofa.cli.runs import find_set
from lofa.cli.schema import WayConfig
from lofa.errors import DataError
from lofa.zoo import ZooOptions, ZooReport, build_zoo

__all__ = ["COMMAND", "ZooConfig", "train_zoo"]


@dataclass
class ZooConfig(WayConfig):
    """Keys of lofa zoo."""

    shard: str = option("1/1", "part i of n, i/n; the parts may run at the same time on machines that share the folder")


def zoo(config: Any) -> ZooReport:
    """Trains the LoRAs of the set `data`, or of one shard of them."""
    return train_zoo(config, open_backbone(config.backbone, pick_device(config.device)), config.shard)


def train_zoo(config: Any, backbone: Backbone, shard: str = "1/1") -> ZooReport:
    """Trains what is missing of a zoo and says how it went.

    Raises:
        DataError: LoRAs that failed, by name.
    """
    options: ZooOptions = build(ZooOptions, config.zoo, seed=config.seed, shard=shard)
    set_dir = find_set(config)
    report = build_zoo(set_dir, backbone, options)
    print(f"{set_dir / 'zoo'}: {report.trained} LoRAs trained, {report.present} were there already")
    if report.trained:
        speed = f"{report.loras_per_hour:,.0f} LoRAs an hour"
        print(f"denoising loss {report.first_loss:.4f} -> {report.final_loss:.4f} on average; {speed}")
    if report.failed:
        (name, reason), *others = report.failed
        more = f", and {len(others)} more (see the index files there)" if others else ""
        raise DataError(f"{set_dir / 'zoo'}: no LoRA for {name}: {reason}{more}")
    return report


COMMAND = Command(
    "zoo",
    ZooConfig,
    zoo,
    "train many LoRAs at once on a data set; finished ones are kept",
    (
        "lofa zoo data=world",
        "lofa zoo data=world zoo.rank=8 zoo.steps=300",
        "lofa zoo -m data=world shard=1/4,2/4,3/4,4/4 hydra/launcher=joblib",
    ),
    sections=("zoo", "backbone", "paths"),
)
