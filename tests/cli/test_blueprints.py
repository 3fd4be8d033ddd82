"""Whatever class the command line names is built with its arguments; a wrong name or argument stops before all else."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from lofa.cli import COMMANDS, main
from lofa.cli.blueprints import Blueprint, drop_leftovers
from lofa.cli.options import build
from lofa.cli.trainer import training_parts
from lofa.errors import ConfigError
from lofa.resources import conf_dir
from tests.cli.conftest import BACKBONE, SMALL_NET

QUICK = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "trainer.enable_progress_bar=false")


def parts_of(*values: str) -> dict[str, Blueprint]:
    """What train.py would build, its arguments bound."""
    COMMANDS["train"].register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", list(values))
    return bound(config, *values)


def bound(config: DictConfig, *values: str) -> dict[str, Blueprint]:
    """The parts of a configuration that was composed with these values."""
    drop_leftovers(config, OverridesParser.create().parse_overrides(list(values)))
    return training_parts(build(config))


def test_another_optimizer_is_a_key() -> None:
    parts = parts_of("stage=1", "stages.s1.optimizer._target_=torch.optim.SGD", "+stages.s1.optimizer.momentum=0.9")
    made = parts["optimizer"].make(torch.optim.Optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(made, torch.optim.SGD)
    assert made.defaults["momentum"] == 0.9 and made.defaults["lr"] == 1e-3 and made.defaults["weight_decay"] == 0.01


def test_the_project_of_a_logger_is_a_key() -> None:
    logger = parts_of("stage=1", "logger=wandb", "logger.project=waves", "+logger.tags=[a,b]")["logger"]
    assert logger.partial().func is WandbLogger
    assert logger.partial().keywords == {"project": "waves", "name": None, "offline": False, "tags": ["a", "b"]}


def test_a_logger_that_is_not_installed_is_one_message(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chdir(prepared):
        assert main(["train", "stage=1", "name=w", "logger=wandb", *QUICK, f"paths.runs={tmp_path}"]) == 2
    assert "logger: " in (message := capsys.readouterr().err) and "wandb" in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Seen(Callback):
    """Keeps the trainer that it was called by."""

    trainers: list[Trainer] = []

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        Seen.trainers.append(trainer)


def test_optimizer_callbacks_and_flags_of_the_trainer_reach_the_training(prepared: Path, tmp_path: Path) -> None:
    values = (
        "stages.s1.optimizer._target_=torch.optim.SGD",
        "+stages.s1.optimizer.momentum=0.9",
        "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor",
        f"+callbacks.seen._target_={__name__}.Seen",
        "+trainer.limit_train_batches=1",
        "+trainer.fast_dev_run=true",
    )
    with chdir(prepared):
        assert main(["train", "stage=1", "name=keys", *QUICK, *values, f"paths.runs={tmp_path}"]) == 0
    trainer = Seen.trainers.pop()
    assert trainer.fast_dev_run and trainer.global_step == 1
    assert isinstance(trainer.optimizers[0], torch.optim.SGD)
    assert any(isinstance(one, LearningRateMonitor) for one in trainer.callbacks)  # type: ignore[attr-defined]
    written = OmegaConf.load(tmp_path / "keys" / "config.yaml")
    assert set(written.stages.s1.optimizer) == {"_target_", "lr", "weight_decay", "momentum"}


WRONG = {
    "+stages.s1.optimizer.momentum=0.9": ["stages.s1.optimizer.momentum: torch.optim.AdamW takes no such argument"],
    "~stages.s1.scheduler.warmup": ["stages.s1.scheduler: lofa.training.warmup_schedule: ", "'warmup'"],
    "stages.s1.optimizer._target_=torch.optim.Adamm": ["stages.s1.optimizer._target_=torch.optim.Adamm: "],
    "stages.s1.optimizer._target_=torch.optim": ["stages.s1.optimizer._target_=torch.optim: no class"],
    "+trainer.fast_dev_rnu=true": ["trainer.fast_dev_rnu: ", "did you mean fast_dev_run?"],
    "+trainer.max_epochs=3": ["trainer.max_epochs: is set by the program"],
    "+callbacks.lr._target_=lightning.pytorch.callbacks.Nothing": ["callbacks.lr._target_="],
    "+callbacks.lr={_target_: lightning.pytorch.callbacks.LearningRateMonitor, interval: 1}": ["callbacks.lr.interval"],
    "+callbacks.lr=3": ["callbacks.lr=3"],
    "stages.s1.optimizer.momentum=0.9": ["stages.s1.optimizer.momentum", "+stages.s1.optimizer.momentum=..."],
    "+strategy.plugin={_target_: lightning.pytorch.strategies.ModelParallelStrategy, size: 2}": [
        "strategy.plugin.size"
    ],
}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_class_or_argument_stops_before_data_is_opened(
    value: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "stage=1", "data=none", value]) == 2
    message = capsys.readouterr().err
    assert all(words in message for words in WRONG[value]) and message.count("\n") == 1, message
    assert list(inside.iterdir()) == []


def test_what_stands_inside_is_bound_too() -> None:
    inner = {"_target_": "torch.optim.SGD", "moment": 1}
    for value in (inner, [{"b": inner}]):
        settings = {"_target_": "builtins.print", "end": value}
        with pytest.raises(ConfigError, match="moment"):
            Blueprint("x", settings).check()


def test_a_class_that_takes_anything_keeps_what_there_was() -> None:
    logger = parts_of("stage=1", "logger._target_=lightning.pytorch.loggers.TensorBoardLogger", "+logger.other=1")[
        "logger"
    ]
    assert logger.partial().func is TensorBoardLogger
    assert logger.partial().keywords == {"name": "", "version": "tensorboard", "other": 1}
