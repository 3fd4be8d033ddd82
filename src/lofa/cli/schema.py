"""The typed configuration of the way from clips to an evaluated predictor: wrong keys and types stop before it runs.

`prepare`, `zoo`, `train`, `eval` and `demo` share this tree (conf/way.yaml) and an `experiment` may set any part of it;
each adds its own keys at the root. A schema holds types and meanings; the values that matter stand in conf/.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from lofa.backbones import BackboneConfig
from lofa.cli.options import LARGEST_SEED, option, section, text
from lofa.conditions import CONDITIONS
from lofa.data import PrepareOptions
from lofa.evaluation import Protocol
from lofa.hypernets import HypernetOptions
from lofa.zoo import ZooOptions

__all__ = ["WayConfig"]


@dataclass
class PathsConfig:
    """Where things are written."""

    data: str = text("data", "folder or URL of the data sets")
    runs: str = text("runs", "folder of the runs")


@dataclass
class TaskConfig:
    """conf/task: what the predictor is told."""

    name: str = option(MISSING, "names the runs")
    conditions: dict[str, Any] = option(
        {},
        f"kind ({', '.join(CONDITIONS)}) -> constructor values of its encoder, and _target_ for a class of one's own; "
        "+task.conditions.<kind>={} adds one",
    )
    metrics: list[str] = option([], "what eval reports: names in lofa.metrics.METRICS")
    prompt: str = option("own", "whose prompt method lofa is asked with: own (that of the generated clip) or sibling")


@dataclass
class OptimizerConfig:
    """AdamW, or another class of parameters -> optimizer with these values."""

    _target_: str = "torch.optim.AdamW"
    _partial_: bool = True
    lr: float = option(MISSING, "peak learning rate")
    betas: list[float] = option([0.9, 0.95], "of the running means")
    weight_decay: float = option(0.01, "decoupled")
    eps: float = option(1e-8, "added to the root of the second moment")


@dataclass
class SchedulerConfig:
    """Learning rate over the steps of a stage."""

    _target_: str = "lofa.training.warmup_schedule"
    _partial_: bool = True
    warmup: int = option(MISSING, "steps of linear warm-up", least=0)
    total: int | None = option(None, "step at which the cosine ends; none: constant after warm-up", least=1)
    floor: float = option(0.0, "fraction of the peak that the cosine ends at", least=0, most=1)


@dataclass
class ResponseModuleConfig:
    """Loss of stage 1."""

    _target_: str = "lofa.training.ResponseModule"
    _partial_: bool = True
    penalty: float = option(1e-4, "weight of mean A^2 + mean B^2", least=0)
    diagnostics_every: int = option(50, "steps between precision and recall in the log", least=1)


@dataclass
class AdapterModuleConfig:
    """Loss of stage 2."""

    _target_: str = "lofa.training.AdapterModule"
    _partial_: bool = True
    delta_scale: float = option(1.0, "weight of the L1 term", least=0)
    denoising_scale: float = option(10.0, "weight of the denoising term", least=0)
    alpha_in_delta: bool = option(True, "compare alpha B A with the truth; false, as published: B A alone")
    noise_weighted: bool = option(True, "weight noise levels by w(t) of the published training")
    noise_draws: int = option(1, "noise levels for each predicted adapter and step", least=1)
    diagnostics_every: int = option(50, "steps between gradient shares in the log", least=1)


@dataclass
class StageConfig:
    """conf/training: how one stage is trained."""

    max_steps: int = option(MISSING, "optimizer steps", least=1)
    batch_size: int = option(MISSING, "prompts a step and process", least=1)
    accumulate: int = option(1, "batches an optimizer step", least=1)
    layers_per_sample: int | None = option(None, "layers drawn a step; none: all", least=1)
    val_every: int = option(MISSING, "steps between validations", least=1)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


@dataclass
class ResponseStage(StageConfig):
    """Stage 1."""

    module: ResponseModuleConfig = field(default_factory=ResponseModuleConfig)


@dataclass
class WeightsStage(StageConfig):
    """Stage 2."""

    module: AdapterModuleConfig = field(default_factory=AdapterModuleConfig)
    clips: int = option(2, "sample clips in TensorBoard; 0: none", least=0)
    clips_every: int = option(1, "validations between them", least=1)


@dataclass
class StagesConfig:
    """Both stages; `stage` chooses."""

    s1: ResponseStage = field(default_factory=ResponseStage)
    s2: WeightsStage = field(default_factory=WeightsStage)


@dataclass
class DataModuleConfig:
    """conf/datamodule: how pairs of prompt and LoRA are drawn."""

    workers: int = option(0, "processes that read ahead", least=0)
    siblings: bool = option(True, "draw any clip of an adapter's group with its own caption, not only the anchor")
    drop: float = option(
        0.1,
        "of several conditions: how often a sample goes without one, so that each can be left out later",
        least=0,
        most=0.99,
    )


@dataclass
class TrainerConfig:
    """conf/trainer: lightning.Trainer."""

    _target_: str = "lightning.Trainer"
    accelerator: str = option("auto", "cpu, gpu or auto")
    precision: str = option("32-true", "32-true, bf16-mixed")
    gradient_clip_val: float | None = option(1.0, "largest gradient norm", least=0)
    log_every_n_steps: int = option(10, "steps between log entries", least=0)
    num_sanity_val_steps: int = option(0, "validation batches before training", least=-1)
    limit_val_batches: int | None = option(None, "validation batches; none: all", least=0)
    enable_progress_bar: bool = option(True, "show progress")
    enable_model_summary: bool = option(False, "show a table of modules")
    detect_anomaly: bool = option(False, "stop at the operation that makes a NaN gradient; slow")
    profiler: str | None = option(None, "simple or advanced: time spent, in the log folder")


@dataclass
class DDPPlugin:
    """One copy of the network in each process."""

    _target_: str = "lightning.pytorch.strategies.DDPStrategy"
    find_unused_parameters: bool = option(False, "for modules with unused parameters")
    process_group_backend: str | None = option(None, "nccl or gloo; none: by device")


@dataclass
class FSDPPlugin:
    """FSDP2: the network spread over the processes. Lightning's own FSDPStrategy refuses a CPU, this one does not."""

    _target_: str = "lightning.pytorch.strategies.ModelParallelStrategy"
    data_parallel_size: int | None = option(None, "processes the network is spread over; none: all", least=1)
    tensor_parallel_size: int = option(1, "1: hypernetworks are not split within a layer", least=1)
    save_distributed_checkpoint: bool = option(
        False, "a file a process instead of one a checkpoint; to go on from it takes trust_run=true: it is unpickled"
    )
    process_group_backend: str | None = option(None, "nccl or gloo; none: by device")


@dataclass
class StrategyConfig:
    """conf/strategy: on how many devices, and how they share the work."""

    devices: Any = option(1, "how many, a list of their numbers, or auto")
    num_nodes: int = option(1, "machines", least=1)
    plugin: Any = None


@dataclass
class LoggerConfig:
    """conf/logger."""

    _target_: str | None = None
    name: str = option("", "folder within the run")
    version: str = option("", "folder within that")


@dataclass
class MetricsConfig:
    """conf/metrics: the networks that metrics look with."""

    clip: str | None = text(None, "CLIP folder with tokenizer and preprocessor; none: the shipped one")
    video: str | None = text(None, "VideoMAE folder with preprocessor, for FVD; none: the shipped one")
    pose: Any = option(None, "pose estimator by _target_: uint8 clips (B, T, H, W, 3) -> joints (B, T, J, 2) in pixels")


@dataclass
class WayConfig:
    """What the commands of the way share."""

    data: str = text("world", "data set: a name in paths.data, a folder, or a URL such as s3://bucket/set")
    name: str | None = text(None, "folder in paths.runs for what is made; none: named after task, stage and time")
    seed: int = option(0, "of everything that is drawn", least=0, most=LARGEST_SEED)
    device: str = option("auto", "where models run: cpu, cuda, cuda:1, auto")
    backbone: Any = field(default_factory=section(BackboneConfig, verbatim=("name", "path")))
    task: TaskConfig = field(default_factory=TaskConfig)
    prepare: Any = field(default_factory=section(PrepareOptions, without=("seed",), verbatim=("captions",)))
    zoo: Any = field(default_factory=section(ZooOptions, without=("seed", "shard")))
    hypernet: Any = field(default_factory=section(HypernetOptions))
    datamodule: DataModuleConfig = field(default_factory=DataModuleConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    evaluation: Any = field(default_factory=section(Protocol, without=("seed",)))
    method: dict[str, Any] = field(default_factory=dict)  # conf/method: name -> recipe, checked where it is built
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


for name, schema in {"ddp": DDPPlugin, "fsdp": FSDPPlugin}.items():  # files of conf/strategy ask for them by name
    ConfigStore.instance().store(group="schema", name=name, node=schema, provider="lofa")
