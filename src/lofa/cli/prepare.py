"""lofa prepare: clips, captions and joints -> a data set of encoded samples."""

from typing import Any

from lofa.backbones import Backbone
from lofa.cli.objects import open_backbone
from lofa.cli.options import build
from lofa.cli.runs import find_set
from lofa.data import PrepareOptions, PrepareReport
from lofa.data import prepare as prepare_set
from lofa.workflows import pick_device

__all__ = ["prepare", "prepare_source"]


def prepare(config: Any) -> PrepareReport:
    """Prepares the set `data` from `source`."""
    return prepare_source(config.source, config, open_backbone(config.backbone, pick_device(config.device)))


def prepare_source(source: str, config: Any, backbone: Backbone) -> PrepareReport:
    """Prepares the set `data` from a source for a backbone."""
    options: PrepareOptions = build(config, "prepare")
    return prepare_set(source, find_set(config), backbone, options)
