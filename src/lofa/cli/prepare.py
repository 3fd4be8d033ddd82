"""lofa prepare: clips, captions and joints -> a data set of encoded samples."""

from lofa.backbones import Backbone
from lofa.cli.commands import PrepareConfig
from lofa.cli.objects import open_backbone
from lofa.cli.pipeline import PipelineConfig
from lofa.cli.runs import find_set
from lofa.data import PrepareOptions, PrepareReport
from lofa.data import prepare as prepare_set
from lofa.workflows import pick_device

__all__ = ["prepare", "prepare_source"]


def prepare(config: PrepareConfig) -> PrepareReport:
    """Prepares the set `data` from `source`."""
    return prepare_source(config.source, config, open_backbone(config.backbone, pick_device(config.device)))


def prepare_source(source: str, config: PipelineConfig, backbone: Backbone) -> PrepareReport:
    """Prepares the set `data` from a source for a backbone."""
    options: PrepareOptions = config.prepare
    return prepare_set(source, find_set(config), backbone, options)
