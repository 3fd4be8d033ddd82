"""lofa prepare: clips, captions and joints -> a data set of encoded samples."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from lofa.backbones import Backbone
from lofa.cli.command import Command
from lofa.cli.objects import open_backbone, pick_device
from lofa.cli.options import build, text
from lofa.cli.runs import find_set
from lofa.cli.schema import WayConfig
from lofa.data import PrepareOptions, PrepareReport
from lofa.data import prepare as prepare_set

__all__ = ["COMMAND", "PrepareConfig", "prepare_source"]


@dataclass
class PrepareConfig(WayConfig):
    """Keys of lofa prepare."""

    source: str = text(
        MISSING, "folder of videos, csv or jsonl of captions, npz of poses, reference:<folder>, or world"
    )


def prepare(config: Any) -> PrepareReport:
    """Prepares the set `data` from `source`."""
    return prepare_source(config.source, config, open_backbone(config.backbone, pick_device(config.device)))


def prepare_source(source: str, config: Any, backbone: Backbone) -> PrepareReport:
    """Prepares the set `data` from a source for a backbone."""
    options: PrepareOptions = build(PrepareOptions, config.prepare, seed=config.seed)
    return prepare_set(source, find_set(config), backbone, options)


COMMAND = Command(
    "prepare",
    PrepareConfig,
    prepare,
    "decode clips, encode latents and conditions once: a data set",
    (
        "lofa prepare source=world data=world",
        "lofa prepare source=videos/ data=mine            captions in captions.csv, or clip.txt beside clip.mp4",
        "lofa prepare source=reference:zoo/ data=theirs   a zoo of the published code, LoRAs and all",
        "lofa prepare source=poses.npz data=poses prepare.held_out_labels=[wave,run]",
    ),
    sections=("prepare", "backbone", "paths"),
)
