"""Of a run's files nothing is run but what is known to be harmless; the command line may name any class."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.strategies import SingleDeviceStrategy

from lofa.cli import main
from lofa.errors import ConfigError, DataError
from lofa.workflows.trust import check_checkpoints, check_targets, targets

HARMLESS = (
    None,
    "lofa.training.warmup_schedule",
    "lofa.training.ResponseModule",
    "lofa.training.AdapterModule",
    "lofa.training.CsvLog",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.CosineAnnealingLR",
    "torch.optim.swa_utils.SWALR",
    "lightning.Trainer",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.strategies.ModelParallelStrategy",
    "lightning.pytorch.callbacks.ModelCheckpoint",
    "lightning.pytorch.loggers.CSVLogger",
    "lightning.pytorch.profilers.SimpleProfiler",
    "lightning.pytorch.plugins.MixedPrecision",
    "lightning.pytorch.plugins.environments.SLURMEnvironment",
    "lightning.pytorch.plugins.io.AsyncCheckpointIO",
)
REFUSED = (
    "torch.load",
    "joblib.load",
    "os.system",
    "pathlib.Path.touch",
    "builtins.eval",
    "hydra.utils.get_method",
    "lightning",
    "torch.optim",
    "torch.optim.optimizer.torch.load",  # a module that is seen through another's imports
    "torch.optim.optimizer.Any",
    "torch.optim.swa_utils.AveragedModel",  # a class of the package, of another kind
    "torch.optimize.SGD",
    "lightning.pytorch.trainer.trainer.os.system",
    "lightning.pytorch.utilities.model_helpers.is_overridden",
    "lightning.pytorch.loggers.csv_logs.Namespace",
    "lightning.pytorch.Trainer.from_argparse_args",
    "lightning.pytorch.strategies.nothing.DDPStrategy",
    "lightningrod.Strategy",
    "lofa.files.read_torch",
    "lofa.training.response_loss",
    "lofa.training.SampleClips.__init__.__globals__",
    "",
    ["torch.optim.SGD"],
    {"_target_": "torch.optim.SGD"},
    7,
)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_run_may_name(name: str | None) -> None:
    check_targets([("key", name)], Path("config.yaml"))


@pytest.mark.parametrize("name", REFUSED, ids=str)
def test_what_a_run_may_not_name(name: object) -> None:
    with pytest.raises(ConfigError, match="trust_run=true"):
        check_targets([("key", name)], Path("config.yaml"))


def test_a_foreign_name_is_refused_before_anything_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_module.py").write_text("open('imported', 'w')\nclass Strategy: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="foreign_module"):
        check_targets([("key", "foreign_module.Strategy")], Path("config.yaml"))
    assert not Path("imported").exists()


def test_every_target_is_found_wherever_it_stands() -> None:
    value = {
        "a": [{"_args_": [{"_target_": "x"}], "b": ({"_target_": None},)}],
        "_target_": "y",
        "c": {"d": "_target_"},
    }
    assert list(targets(value)) == [("a[0]._args_[0]._target_", "x"), ("a[0].b[0]._target_", None), ("_target_", "y")]
    assert list(targets({"strategy.plugin._target_": "x"})) == [("strategy.plugin._target_", "x")]


class Marked(SingleDeviceStrategy):
    """A strategy that says when it is made; the path of this module is what a hostile run would name."""

    made = 0

    def __init__(self) -> None:
        super().__init__("cpu")
        Marked.made += 1


MARKED = f"{__name__}.Marked"
TOUCH = {"_target_": "torch.optim.optimizer.torch.utils.collect_env.run", "command": "touch pwned"}


def test_a_class_from_elsewhere_has_no_name_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.strategies.Stranger", Marked, raising=False)
    with pytest.raises(ConfigError, match="Stranger"):
        check_targets([("key", "lightning.pytorch.strategies.Stranger")], Path("config.yaml"))


def change(run: Path, edit: Callable[[Any], None]) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def run(pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the run of stage 1."""
    return Path(shutil.copytree(pipeline / "runs" / "first", tmp_path / "run"))


def resume(pipeline: Path, run: Path, *values: str) -> int:
    with chdir(pipeline):
        return main(["train", f"resume={run}", "stages.s1.max_steps=3", f"paths.runs={run.parent}", *values])


HOSTILE: dict[str, Callable[[Any], None]] = {
    "strategy.plugin._target_": lambda config: config["strategy"].update(plugin=TOUCH),
    "strategy.plugin.cluster_environment._target_": lambda config: config["strategy"].update(
        plugin={"_target_": "lightning.pytorch.strategies.DDPStrategy", "cluster_environment": TOUCH}
    ),
    "strategy.plugin._args_[0]._target_": lambda config: config["strategy"].update(
        plugin={"_target_": "lightning.pytorch.strategies.DDPStrategy", "_args_": [TOUCH]}
    ),
    "logger._target_": lambda config: config["logger"].update(_target_="torch.load"),
    "stages.s1.optimizer._target_": lambda config: config["stages"]["s1"]["optimizer"].update(_target_="joblib.load"),
    "stages.s2.scheduler._target_": lambda config: config["stages"]["s2"]["scheduler"].update(_target_="os.getcwd"),
    "stages.s1.module._target_": lambda config: config["stages"]["s1"]["module"].update(_target_="builtins.dict"),
    "trainer._target_": lambda config: config["trainer"].update(_target_="builtins.dict"),
    "callbacks.touch._target_": lambda config: config.update(callbacks={"touch": TOUCH}),
    "callbacks.late.every[0]._target_": lambda config: config.update(
        callbacks={"late": {"_target_": "lightning.pytorch.callbacks.Timer", "every": [TOUCH]}}
    ),
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_run_runs_no_code_of_its_configuration(
    key: str, pipeline: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(config: Any) -> None:
        HOSTILE[key](config)
        config["trust_run"] = True  # does not count in a file

    change(run, edit)
    before = (run / "config.yaml").read_bytes()
    assert resume(pipeline, run) == 2
    message = capsys.readouterr().err
    assert f"{run}/config.yaml: {key}=" in message and "trust_run=true" in message and message.count("\n") == 1
    assert not (pipeline / "pwned").exists() and (run / "config.yaml").read_bytes() == before


def test_trust_and_the_command_line_may_name_any_class(pipeline: Path, run: Path) -> None:
    before = Marked.made
    assert resume(pipeline, run, f"+strategy.plugin={{_target_: {MARKED}}}") == 0
    assert Marked.made == before + 1
    assert MARKED in (run / "config.yaml").read_text()  # now it is the file that says so
    assert resume(pipeline, run, "stages.s1.max_steps=4") == 2
    assert resume(pipeline, run, "stages.s1.max_steps=4", f"+strategy.plugin._target_={MARKED}") == 0
    assert resume(pipeline, run, "stages.s1.max_steps=5", "trust_run=true") == 0
    assert Marked.made == before + 3


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_other_commands_build_nothing_of_a_configuration(command: str, pipeline: Path, tmp_path: Path) -> None:
    hostile = Path(shutil.copytree(pipeline / "runs" / "second", tmp_path / "hostile"))

    def edit(config: Any) -> None:
        config["response"] = TOUCH
        config["hypernet"].update(TOUCH)
        config["strategy"]["plugin"] = TOUCH
        config["logger"].update(TOUCH)

    change(hostile, edit)
    arguments = {
        "predict": ["prompt=x", f"out={tmp_path}/x.safetensors"],
        "eval": [
            *("backbone.path=models/wan", "metrics.clip=models/clip", "metrics.video=models/video"),
            *("methods=[base,lofa]", "evaluation.draws=20", "evaluation.noise_levels=1", f"paths.runs={tmp_path}"),
        ],
    }
    with chdir(pipeline):
        assert main([command, f"predictor={hostile}", *arguments[command]]) == 0
    assert not (pipeline / "pwned").exists()


class Bomb:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def _hostile(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "bomb": Bomb()}, path)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a zip with code": _hostile,
    "a bare pickle with code": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "an old torch file with code": lambda path: torch.save(Bomb(), path, _use_new_zipfile_serialization=False),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "text": lambda path: path.write_text("<html>404</html>"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-2000]),
    "empty": lambda path: path.write_bytes(b""),
    "weights alone": lambda path: torch.save({"state_dict": {}}, path),
    "a tensor": lambda path: torch.save(torch.ones(2), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_hostile_or_damaged_checkpoint_runs_nothing(damage: str, run: Path, inside: Path) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    DAMAGES[damage](checkpoint)
    with pytest.raises(DataError, match=f"^{re.escape(str(checkpoint))}: [^\n]+$"):
        check_checkpoints(run, trusted=True)  # trust in classes opens no pickle
    assert not (inside / "pwned").exists()


def test_a_hostile_checkpoint_is_refused_on_resume(
    pipeline: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoints" / "last.ckpt"
    _hostile(checkpoint)
    assert resume(pipeline, run, "trust_run=true") == 2
    message = capsys.readouterr().err
    assert str(checkpoint) in message and message.count("\n") == 1
    assert not (pipeline / "pwned").exists()


def test_the_trainer_opens_a_checkpoint_as_data_too(
    pipeline: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lofa.cli.train.check_checkpoints", lambda run, trusted: None)
    _hostile(run / "checkpoints" / "last.ckpt")
    assert resume(pipeline, run) == 2
    assert "last.ckpt: not a readable file of tensors alone" in capsys.readouterr().err
    assert not (pipeline / "pwned").exists()


def test_the_best_checkpoint_is_looked_at_too(pipeline: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _hostile(run / "checkpoints" / "best.ckpt")
    assert resume(pipeline, run) == 2
    assert str(run / "checkpoints" / "best.ckpt") in capsys.readouterr().err and not (pipeline / "pwned").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_in_several_files_needs_trust(
    name: str, pipeline: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints" / name
    folder.unlink()
    folder.mkdir()
    for file in (".metadata", "meta.pt"):
        (folder / file).write_bytes(pickle.dumps(Bomb()))
    assert resume(pipeline, run) == 2
    message = capsys.readouterr().err
    assert str(folder) in message and "trust_run=true" in message and message.count("\n") == 1
    assert not (pipeline / "pwned").exists()
