"""train.py: one stage of the predictor, from a data set with a zoo to a run directory with a predictor."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lofa.backbones import Backbone
from lofa.cli.command import Command, current_overrides
from lofa.cli.objects import (
    build_encoder,
    build_hypernet,
    check_conditions,
    hypernet_kind,
    open_backbone,
    place_training,
    task_conditions,
)
from lofa.cli.options import check_numbers, option, text
from lofa.cli.progress import StepBar
from lofa.cli.runs import (
    CHECKPOINTS,
    CONFIG,
    find_run,
    find_set,
    finish_run,
    is_first_process,
    new_run,
    read_run_config,
    start_run,
)
from lofa.cli.schema import WayConfig
from lofa.cli.text import literal
from lofa.cli.trainer import build_checkpoints, build_trainer, keep_best, quieten_lightning
from lofa.cli.trust import check_checkpoints, check_targets, targets
from lofa.data import LoFADataModule, read_samples
from lofa.errors import ConfigError, DataError, Interrupted
from lofa.hypernets import Hypernetwork, Part
from lofa.predict import load_part, read_description, save_predictor
from lofa.resources import conf_dir
from lofa.stores import Place
from lofa.training import LAST, PredictorModule, SampleClips, StopRequest, TrainingDiverged, TrainingStopped

__all__ = ["COMMAND", "TrainConfig", "Trained", "train_stage"]

Made = TypeVar("Made")


@dataclass
class TrainConfig(WayConfig):
    """Keys of train.py."""

    stage: int | None = option(None, "1: response map; 2: adapter, after stage 1")
    response: str | None = text(
        None, "stage 2: run directory of stage 1; none: the newest finished one of this data, task and backbone"
    )
    resume: str | None = text(
        None, "run directory to go on with; its configuration is used, values given here come on top"
    )
    trust_run: bool = option(
        False,
        "resume: build whatever class the run's config.yaml names, read checkpoints in several files; both run code "
        "that lies in the run",
    )


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        run: its directory; the predictor lies in its folder `predictor`.
        metrics: validation metrics of the weights that were kept.
        module: the LightningModule with these weights.
    """

    run: Path
    metrics: dict[str, float]
    module: PredictorModule = field(repr=False)


def train(config: Any) -> Trained:
    """Trains the stage that the configuration asks for, or goes on with a run."""
    if config.resume is None:
        _check_stage(config.stage)
        with new_run(config, f"stage{config.stage}") as run:
            return train_stage(config, run)
    run = Path(config.resume)
    resumed = _resumed(run, config.trust_run)
    check_checkpoints(run, config.trust_run)
    checkpoint = run / CHECKPOINTS / LAST
    if not checkpoint.exists():  # killed before the first one was written
        print(f"resume={run}: no checkpoint in it yet, so it starts at the first step")
    return train_stage(resumed, run, checkpoint if checkpoint.exists() else None)


def train_stage(config: Any, run: Path, checkpoint: Path | None = None) -> Trained:
    """Trains one stage into a run directory, from a checkpoint where one is given.

    The directory is made once everything is loaded, so a mistake leaves nothing behind.

    Raises:
        LofaError: whatever does not fit: data set, zoo, backbone, stage-1 run, sizes.
    """
    with StopRequest(follower=not is_first_process()) as stop, _explained(run, config.stage):
        return _train_stage(config, run, checkpoint, stop)


def _train_stage(config: Any, run: Path, checkpoint: Path | None, stop: StopRequest) -> Trained:
    _check_stage(config.stage)
    needed = _parts_before(config)
    placed = place_training(config)
    quieten_lightning()
    seed_everything(config.seed, verbose=False)
    stage = config.stages[f"s{config.stage}"]
    set_dir = find_set(config)
    samples = read_samples(set_dir)
    backbone = open_backbone(config.backbone, "cpu")
    data = LoFADataModule(
        set_dir,
        backbone.layers,
        backbone,
        conditions=task_conditions(config.task),
        stage=config.stage,
        batch_size=stage.batch_size,
        layers_per_sample=stage.layers_per_sample,
        siblings=config.datamodule.siblings,
        drop=config.datamodule.drop,
        workers=config.datamodule.workers,
        seed=config.seed,
    )
    data.setup()
    encoder = build_encoder(config.task, backbone, data.example())
    earlier: dict[str, Part] = {}
    if needed:
        config = OmegaConf.merge(config, {"response": literal(str(_choose_response(config, set_dir, backbone)))})
        earlier = _load_earlier(config, backbone, needed)
    hypernet = build_hypernet(config.hypernet, backbone, config.stage, encoder, earlier)
    module = _build_module(config, stage, backbone, hypernet)
    callbacks: list[Callback] = []
    if config.trainer.enable_progress_bar:
        callbacks.append(StepBar(f"stage {config.stage}"))
    if config.stage == 2 and stage.clips:
        captions = {sample.id: sample.caption for sample in samples}
        callbacks.append(SampleClips(captions, stage.clips, stage.clips_every, backbone.sampling.fps, config.seed))
    checkpoints = build_checkpoints(config, stage, run, data, stop)
    trainer = build_trainer(placed, stage, run, checkpoints, callbacks)
    start_run(run, config)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    metrics = keep_best(trainer, checkpoints, module, data)
    save_predictor(
        run / "predictor",
        backbone,
        conditions=list(config.task.conditions),
        hypernet=module.hypernet,
        metadata={"run": run.name, "data": str(set_dir), "task": config.task.name},
    )
    finish_run(
        run,
        {
            **_identity(config, set_dir, config.stage),
            "backbone_fingerprint": backbone.fingerprint,
            "steps": trainer.global_step,
            "metrics": metrics,
        },
    )
    return Trained(run, metrics, module)


@contextmanager
def _explained(run: Path, stage: int) -> Iterator[None]:
    """Says how to go on (Interrupted), or what to do (ConfigError), where a training ends before its last step."""
    last = run / CHECKPOINTS / LAST
    try:
        yield
    except (TrainingStopped, KeyboardInterrupt, SystemExit) as error:  # Lightning makes an exit of Ctrl-C
        what = str(error) if isinstance(error, TrainingStopped) else "stopped"
        way = f"go on with: python train.py resume={run}" if last.exists() else "no step was saved; start again"
        raise Interrupted(f"{what}; {way}") from None
    except TrainingDiverged as error:
        kept = f"{last} is from before. " if last.exists() else ""
        raise ConfigError(
            f"{error}, so the training stopped there and no predictor was written. {kept}Give a lower learning rate "
            f"(stages.s{stage}.optimizer.lr), a longer warm-up (stages.s{stage}.scheduler.warmup), gradient clipping "
            "(trainer.gradient_clip_val) or trainer.precision=32-true; debug=anomaly names the operation"
        ) from None


def _check_stage(stage: int | None) -> None:
    if stage not in (1, 2):
        given = "no stage given" if stage is None else f"stage={stage}"
        raise ConfigError(f"{given}: give stage=1 (response map) or, after it, stage=2 (adapter)")


def _parts_before(config: Any) -> tuple[str, ...]:
    """The parts of the hypernetwork that the stage needs from a run of an earlier one."""
    kind, stages = config.hypernet.kind, hypernet_kind(config.hypernet).stages
    if config.stage not in stages:
        raise ConfigError(
            f"stage={config.stage}: hypernet.kind={kind} has no such stage; train it with "
            f"stage={' or stage='.join(map(str, stages))}"
        )
    if config.response is not None and not any(stages.values()):
        raise ConfigError(f"response={config.response}: hypernet.kind={kind} reads no other run")
    return stages[config.stage]


def _identity(config: Any, set_dir: Place, stage: int) -> dict[str, object]:
    """What a later command finds a run by."""
    return {
        "stage": stage,
        "data": str(set_dir.resolve()),
        "task": config.task.name,
    }


def _resumed(run: Path, trusted: bool) -> DictConfig:
    """The configuration of a run, with the values of this command line on top, which alone may name any class."""
    schema = OmegaConf.to_container(OmegaConf.structured(TrainConfig))
    given: list[tuple[str, object]] = []
    saved = OmegaConf.merge(OmegaConf.structured(TrainConfig), read_run_config(run))
    for override in OverridesParser.create().parse_overrides(current_overrides()):
        if override.key_or_group in ("resume", "trust_run"):
            continue
        if (conf_dir() / override.key_or_group.partition("@")[0]).is_dir():
            raise ConfigError(
                f"{override.input_line} with resume={run}: a run keeps its groups; give single values, such as "
                "trainer.accelerator=cpu"
            )
        OmegaConf.update(saved, override.key_or_group, override.value(), merge=True)
        given += targets({override.key_or_group: override.value()})
    assert isinstance(saved, DictConfig)
    saved.trust_run = False  # never a matter of the file
    check_numbers(saved)
    if not trusted:
        named = targets(OmegaConf.to_container(saved, resolve=True))
        own = [name for _, name in targets(schema)]
        check_targets([one for one in named if one not in given], own, run / CONFIG)
    return saved


def _choose_response(config: Any, set_dir: Place, backbone: Backbone) -> Path:
    """The stage-1 run that stage 2 reads."""
    if config.response is not None:
        return Path(config.response)
    try:
        run = find_run(config.paths.runs, _identity(config, set_dir, stage=1), backbone)
    except DataError as error:
        raise DataError(
            f"stage=2 needs a run of stage 1: {error}. Run train.py stage=1 first, or give response=<run>"
        ) from None
    if is_first_process():
        print(f"stage 1: {run} (the newest finished one; choose another with response=<run>)")
    return run


def _load_earlier(config: Any, backbone: Backbone, needed: Sequence[str]) -> dict[str, Part]:
    description = read_description(config.response)
    if not backbone.accepts(description.fingerprint):
        raise ConfigError(
            f"response={config.response}: trained for backbone {description.backbone!r} ({description.fingerprint}), "
            f"not for {backbone.name!r} ({backbone.fingerprint})"
        )
    check_conditions(f"response={config.response}", description.conditions, config.task)
    return {name: load_part(description, name) for name in needed}


def _build_module(config: Any, stage: Any, backbone: Backbone, hypernet: Hypernetwork) -> PredictorModule:
    """The LightningModule of the stage around finished objects.

    Raises:
        ConfigError: an optimizer, schedule or module that can't be made of its values.
    """
    key = f"stages.s{config.stage}"
    optimizer = instantiate(stage.optimizer, _convert_="all")
    scheduler = instantiate(stage.scheduler, _convert_="all")
    parameters = list(hypernet.parameters())
    tried = _make(f"{key}.optimizer", Optimizer, lambda: optimizer(parameters))  # Lightning makes them within fit
    _make(f"{key}.scheduler", LRScheduler, lambda: scheduler(tried))
    module = instantiate(stage.module, hypernet=hypernet, backbone=backbone, optimizer=optimizer, scheduler=scheduler)
    seed = {"seed": config.seed} if config.stage == 2 else {}
    return _make(f"{key}.module", PredictorModule, lambda: module(**seed))


def _make(key: str, kind: type[Made], make: Callable[[], object]) -> Made:
    try:
        made = make()
    except (TypeError, ValueError, IndexError, InstantiationException) as error:
        raise ConfigError(f"{key}: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(made, kind):
        raise ConfigError(f"{key}: gives a {type(made).__name__}, where a {kind.__name__} is needed")
    return made


COMMAND = Command(
    "train",
    TrainConfig,
    train,
    "train a stage of the predictor on a data set with its LoRA zoo",
    (
        "python train.py stage=1 data=<set>",
        "python train.py stage=2 data=<set>            after the newest stage 1 of the same data, task and backbone",
        "python train.py -m stage=1 hypernet.lora_rank=2,4   two runs",
        "python train.py resume=<run>",
    ),
    sections=("stages", "hypernet", "task", "datamodule", "strategy", "trainer", "backbone", "paths"),
    program="train.py",
)
