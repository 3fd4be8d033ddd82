"""The typed configuration of the pipeline from clips to an evaluated predictor: wrong keys and types stop early.

`prepare`, `zoo`, `train`, `eval` and `demo` share this tree (conf/pipeline.yaml) and an `experiment` may set any part
of it; each adds its own keys at the root. The classes hold types and meanings; the values that matter stand in conf/.
A mapping without help is an object to be built: its keys are `_target_` and the arguments of that class.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from lofa.backbones import BackboneConfig
from lofa.data import PrepareOptions
from lofa.evaluation import Protocol
from lofa.hypernets import HypernetOptions
from lofa.options import LARGEST_SEED, REQUIRED, Options, option, text
from lofa.tasks import Task
from lofa.zoo import ZooOptions

__all__ = ["PipelineConfig"]


@dataclass(frozen=True, kw_only=True)
class PathsConfig(Options):
    """Where things are written."""

    data: str = text("data", "folder or URL of the data sets")
    runs: str = text("runs", "folder of the runs")


@dataclass(frozen=True, kw_only=True)
class StageConfig(Options):
    """conf/training: how one stage is trained."""

    max_steps: int = option(REQUIRED, "optimizer steps", least=1)
    batch_size: int = option(REQUIRED, "prompts a step and process", least=1)
    accumulate: int = option(1, "batches an optimizer step", least=1)
    layers_per_sample: int | None = option(None, "layers drawn a step; none: all", least=1)
    val_every: int = option(REQUIRED, "steps between validations", least=1)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    module: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AdapterStageConfig(StageConfig):
    """The same of stage 2."""

    clips: int = option(2, "sample clips in TensorBoard; 0: none", least=0)
    clips_every: int = option(1, "validations between them", least=1)


@dataclass(frozen=True, kw_only=True)
class StagesConfig(Options):
    """Both stages; `stage` chooses."""

    s1: StageConfig = MISSING
    s2: AdapterStageConfig = MISSING


@dataclass(frozen=True, kw_only=True)
class DataModuleConfig(Options):
    """conf/datamodule: how pairs of prompt and LoRA are drawn."""

    workers: int = option(0, "processes that read ahead", least=0)
    siblings: bool = option(True, "draw any clip of an adapter's group with its own caption, not only the anchor")
    drop: float = option(
        0.1,
        "of several conditions: how often a sample goes without one, so that each can be left out later",
        least=0,
        most=0.99,
    )


@dataclass(frozen=True, kw_only=True)
class StrategyConfig(Options):
    """conf/strategy: on how many devices, and how they share the work."""

    devices: Any = option(1, "how many, a list of their numbers, or auto")
    num_nodes: int = option(1, "machines", least=1)
    plugin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(Options):
    """conf/metrics: the networks that metrics look with."""

    clip: str | None = text(None, "CLIP folder with tokenizer and preprocessor; none: the shipped one")
    video: str | None = text(None, "VideoMAE folder with preprocessor, for FVD; none: the shipped one")
    pose: Any = option(None, "pose estimator by _target_: uint8 clips (B, T, H, W, 3) -> joints (B, T, J, 2) in pixels")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Options):
    """What the commands of the pipeline share."""

    data: str = text("world", "data set: a name in paths.data, a folder, or a URL such as s3://bucket/set")
    name: str | None = text(None, "folder in paths.runs for what is made; none: named after task, stage and time")
    seed: int = option(0, "of everything that is drawn", least=0, most=LARGEST_SEED)
    device: str = option("auto", "where models run: cpu, cuda, cuda:1, auto")
    backbone: BackboneConfig = MISSING
    task: Task = MISSING
    prepare: PrepareOptions = MISSING
    zoo: ZooOptions = MISSING
    hypernet: HypernetOptions = MISSING
    datamodule: DataModuleConfig = MISSING
    stages: StagesConfig = MISSING
    strategy: StrategyConfig = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    evaluation: Protocol = MISSING
    method: dict[str, Any] = field(default_factory=dict)
    metrics: MetricsConfig = MISSING
    paths: PathsConfig = MISSING
