"""train.py: one stage of the predictor, from a data set with a zoo to a run directory with a predictor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from lightning import Callback, seed_everything
from omegaconf import OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lofa import workflows
from lofa.backbones import Backbone
from lofa.cli.blueprints import Blueprint, drop_leftovers
from lofa.cli.command import given_overrides
from lofa.cli.commands import TrainConfig
from lofa.cli.objects import (
    find_set,
    new_run,
    newest_run,
    open_backbone,
    read_conditions,
    read_run_config,
)
from lofa.cli.options import build, schema
from lofa.cli.trainer import build_trainer, stage_config, training_parts
from lofa.data import LoFADataModule, Sample, read_samples
from lofa.errors import ConfigError, Interrupted
from lofa.hypernets import Hypernetwork, Part
from lofa.paths import address
from lofa.processes import is_first_process
from lofa.resources import conf_dir
from lofa.training import (
    LAST,
    Checkpoints,
    PredictorModule,
    SampleClips,
    StepBar,
    StopRequest,
    TrainingDiverged,
    TrainingStopped,
)
from lofa.workflows import Trained
from lofa.workflows.runs import CHECKPOINTS, CONFIG
from lofa.workflows.trust import check_checkpoints, check_targets, targets

__all__ = ["train", "train_into"]


def train(config: TrainConfig) -> Trained:
    """Trains the stage that the configuration asks for, or goes on with a run."""
    if config.resume is None:
        _needed_parts(config)
        with new_run(config, f"stage{config.stage}") as run:
            return train_into(run, config)
    run = Path(config.resume)
    resumed = _resumed(run, config.trust_run)
    check_checkpoints(run, config.trust_run)
    checkpoint = run / CHECKPOINTS / LAST
    if not checkpoint.exists():  # killed before the first one was written
        print(f"resume={run}: no checkpoint in it yet, so it starts at the first step")
    return train_into(run, resumed, checkpoint if checkpoint.exists() else None)


def train_into(run: Path, config: TrainConfig, checkpoint: Path | None = None) -> Trained:
    """Trains one stage into a run directory, from a checkpoint where one is given.

    Raises:
        LofaError: whatever does not fit: data set, zoo, backbone, stage-1 run, sizes.
    """
    with StopRequest(follower=not is_first_process()) as stop, _explained(run, config.stage or 0):
        needed = _needed_parts(config)
        given = config.trainer.get("accelerator", "auto")
        accelerator, devices = workflows.place_training(config.device, given, config.strategy.devices)
        trainer, strategy = {**config.trainer, "accelerator": accelerator}, replace(config.strategy, devices=devices)
        placed = replace(config, trainer=trainer, strategy=strategy)
        parts = training_parts(placed)
        conditions, classes = read_conditions(config.task)
        workflows.quieten_lightning()
        stage, set_dir = stage_config(config), find_set(config)
        samples = read_samples(set_dir)
        backbone = open_backbone(config, "cpu")
        data = LoFADataModule(
            set_dir,
            backbone.layers,
            backbone,
            conditions=list(conditions),
            stage=config.stage or 1,
            batch_size=stage.batch_size,
            layers_per_sample=stage.layers_per_sample,
            seed=config.seed,
            **asdict(config.datamodule),
        )
        data.setup()
        earlier: dict[str, Part] = {}
        if needed:
            response = config.response or str(newest_run(config, 1, backbone, "response"))
            config = replace(config, response=response)
            earlier = workflows.load_earlier(response, needed, backbone, data.example())
        seed_everything(config.seed, verbose=False)  # here: loading a model draws random numbers, more or fewer of them
        encoder = workflows.build_encoder(conditions, backbone, data.example(), classes)
        hypernet = workflows.build_hypernet(config.hypernet, backbone, config.stage or 1, encoder, earlier)
        module = _build_module(config, parts, backbone, hypernet)
        validated = bool(len(data.val or ())) and trainer.get("limit_val_batches") != 0
        checkpoints = Checkpoints(run / CHECKPOINTS, stage.val_every, validated, stop)
        callbacks = _callbacks(config, samples, backbone)
        return workflows.train_stage(
            run,
            module,
            data,
            build_trainer(parts, placed, run, checkpoints, callbacks),
            checkpoints,
            backbone=backbone,
            conditions=list(conditions),
            settings=asdict(config),
            summary={
                "stage": config.stage,
                "data": address(set_dir),
                "task": config.task.name,
                "hypernet": config.hypernet.kind,
            },
            metadata={"data": str(set_dir), "task": config.task.name},
            checkpoint=checkpoint,
        )


@contextmanager
def _explained(run: Path, stage: int) -> Iterator[None]:
    """Says how to go on (Interrupted), or what to do (ConfigError), where a training ends before its last step."""
    last = run / CHECKPOINTS / LAST
    try:
        yield
    except (TrainingStopped, KeyboardInterrupt, SystemExit) as error:  # Lightning makes an exit of Ctrl-C
        what = str(error) if isinstance(error, TrainingStopped) else "stopped"
        again = f"go on with: python train.py resume={run}" if last.exists() else "no step was saved; start again"
        raise Interrupted(f"{what}; {again}") from None
    except TrainingDiverged as error:
        kept = f"{last} is from before. " if last.exists() else ""
        raise ConfigError(
            f"{error}, so the training stopped there and no predictor was written. {kept}Give a lower learning rate "
            f"(stages.s{stage}.optimizer.lr), a longer warm-up (stages.s{stage}.scheduler.warmup), gradient clipping "
            "(trainer.gradient_clip_val) or trainer.precision=32-true; debug=anomaly names the operation"
        ) from None


def _needed_parts(config: TrainConfig) -> tuple[str, ...]:
    """The parts of the hypernetwork that the stage needs from a run of an earlier one.

    Raises:
        ConfigError: no stage, one that the kind of hypernetwork does not have, or a run that it does not read.
    """
    if config.stage is None:
        raise ConfigError("give stage=1 (response map) or, after it, stage=2 (adapter)")
    kind, stages = config.hypernet.kind, workflows.hypernet_kind(config.hypernet).stages
    if config.stage not in stages:
        given = " or ".join(f"stage={stage}" for stage in stages)
        raise ConfigError(f"stage={config.stage}: hypernet.kind={kind} has no such stage; train it with {given}")
    if config.response is not None and not any(stages.values()):
        raise ConfigError(f"response={config.response}: hypernet.kind={kind} reads no other run")
    return stages[config.stage]


def _resumed(run: Path, trusted: bool) -> TrainConfig:
    """The configuration of a run, with the values of this command line on top, which alone may name any class."""
    given: list[tuple[str, object]] = []
    saved = OmegaConf.merge(schema(TrainConfig), read_run_config(run))
    overrides = given_overrides()
    for override in overrides:
        if override.key_or_group in ("resume", "trust_run"):
            continue
        if (conf_dir() / override.key_or_group.partition("@")[0]).is_dir():
            raise ConfigError(
                f"{override.input_line} with resume={run}: a run keeps its groups; give single values, such as "
                "trainer.accelerator=cpu"
            )
        OmegaConf.update(saved, override.key_or_group, override.value(), merge=True)
        given += targets({override.key_or_group: override.value()})
    OmegaConf.update(saved, "trust_run", False)  # never a matter of the file
    if not trusted:
        named = targets(OmegaConf.to_container(saved, resolve=True))
        check_targets([one for one in named if one not in given], run / CONFIG)
    drop_leftovers(saved, overrides)
    return build(saved)


def _build_module(
    config: TrainConfig, parts: Mapping[str, Blueprint], backbone: Backbone, hypernet: Hypernetwork
) -> PredictorModule:
    """The LightningModule of the stage around finished objects.

    Raises:
        ConfigError: an optimizer, schedule or module that can't be made of its values.
    """
    optimizer, scheduler = parts["optimizer"], parts["scheduler"]
    scheduler.make(
        LRScheduler, optimizer.make(Optimizer, list(hypernet.parameters()))
    )  # again by Lightning, within fit
    return parts["module"].make(
        PredictorModule,
        hypernet=hypernet,
        backbone=backbone,
        optimizer=optimizer.partial(),
        scheduler=scheduler.partial(),
        **({"seed": config.seed} if config.stage == 2 else {}),
    )


def _callbacks(config: TrainConfig, samples: Sequence[Sample], backbone: Backbone) -> list[Callback]:
    """Those of the program itself: progress, and sample clips of stage 2."""
    callbacks: list[Callback] = []
    if config.trainer.get("enable_progress_bar", True):
        callbacks.append(StepBar(f"stage {config.stage}"))
    stage = config.stages.s2
    if config.stage == 2 and stage.clips:
        captions = {sample.id: sample.caption for sample in samples}
        callbacks.append(SampleClips(captions, stage.clips, stage.clips_every, backbone.sampling.fps, config.seed))
    return callbacks
