"""Run directories: which one is meant, and what a start that came to nothing leaves."""

import os
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from lofa import Backbone
from lofa.cli import main
from lofa.cli.objects import new_run, open_backbone, read_run_config
from lofa.data import ZooBatch
from lofa.errors import ConfigError
from lofa.files import read_tensors, write_json
from lofa.training import ResponseModule
from lofa.workflows import find_run, start_run
from tests.cli.conftest import BACKBONE, SMALL_NET

QUICK = ("train", "stage=1", BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "logger=none")


def test_an_old_run_s_condition_and_encoder_are_its_task_s_conditions(tmp_path: Path) -> None:
    for task, conditions in (
        ({"condition": "pose", "encoder": {"layers": 2}}, {"pose": {"layers": 2}}),
        ({"condition": "text", "encoder": {}}, {"text": {}}),
        ({"conditions": {"text": {}}}, {"text": {}}),
    ):
        OmegaConf.save(OmegaConf.create({"task": {"name": "own", **task}}), tmp_path / "config.yaml")
        assert read_run_config(tmp_path) == {"task": {"name": "own", "conditions": conditions}}


def test_the_run_that_was_finished_last_is_found(tmp_path: Path) -> None:
    for name, stage, finished in (("b", 2, 100), ("c", 2, 300), ("a", 2, 200), ("d", 1, 400)):
        write_json(tmp_path / name / "run.json", {"stage": stage})
        os.utime(tmp_path / name / "run.json", (finished, finished))
    assert find_run(tmp_path, {"stage": 2}) == tmp_path / "c"
    assert find_run(tmp_path, {"stage": 1}) == tmp_path / "d"


def named(runs: Path) -> Any:
    return OmegaConf.create({"paths": {"runs": str(runs)}, "name": "x", "task": {"name": "text"}})


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("result", ["", "checkpoints/last.ckpt", "run.json", "metrics.json"])
def test_a_start_that_came_to_nothing_leaves_its_name(result: str, error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), new_run(named(tmp_path), "stage1") as run:
        start_run(run, {"name": "x"})
        (run / "checkpoints").mkdir()
        (run / (result or "checkpoints")).touch()
        raise error
    assert run.exists() == (run / "config.yaml").exists() == bool(result)
    if result:
        with pytest.raises(ConfigError, match="there is a run"), new_run(named(tmp_path), "stage1"):
            pass
        assert (run / "config.yaml").exists() and (run / result).exists()


def test_what_a_start_found_in_its_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError), new_run(named(tmp_path), "stage1") as run:
        start_run(run, {"name": "x"})
        raise ValueError
    assert [file.name for file in run.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_first_batch_that_fails_burns_no_name(
    error: type[BaseException], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ResponseModule, batch: ZooBatch, batch_idx: int) -> torch.Tensor:
        raise error

    values = (*QUICK, "name=again", f"paths.runs={tmp_path}")
    with chdir(prepared):
        with monkeypatch.context() as patch:
            patch.setattr(ResponseModule, "training_step", fail)
            if error is KeyboardInterrupt:
                assert main([*values]) == 130
            else:
                with pytest.raises(error):
                    main([*values])
        assert not (tmp_path / "again" / "config.yaml").exists()
        assert main([*values]) == 0
    assert (tmp_path / "again" / "run.json").exists()


def test_the_weights_that_validated_best_are_kept(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(self: ResponseModule, batch: ZooBatch, batch_idx: int) -> None:
        self.log("val/loss", float(self.trainer.global_step), batch_size=1)

    monkeypatch.setattr(ResponseModule, "validation_step", worse)
    with chdir(prepared):
        assert main([*QUICK, "name=best", f"paths.runs={tmp_path}"]) == 0
    run = tmp_path / "best"
    kept = read_tensors(run / "predictor" / "response.safetensors")
    best, last = (
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"] for name in ("best", "last")
    )
    assert all(torch.equal(kept[name], best[f"hypernet.trained.{name}"]) for name in kept)
    assert any(not torch.equal(kept[name], last[f"hypernet.trained.{name}"]) for name in kept)


def test_random_numbers_drawn_while_a_model_loads_change_no_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str) -> dict[str, Tensor]:
        with chdir(prepared):
            assert main([*QUICK, f"name={name}", f"paths.runs={tmp_path}"]) == 0
        return read_tensors(tmp_path / name / "predictor" / "response.safetensors")

    def drawing(*arguments: Any) -> Backbone:
        torch.rand(7)
        return open_backbone(*arguments)

    calm = trained("calm")
    monkeypatch.setattr("lofa.cli.train.open_backbone", drawing)
    torch.testing.assert_close(trained("drawn"), calm, rtol=0, atol=0)


def test_a_run_killed_before_its_first_checkpoint_goes_on_from_the_first_step(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chdir(prepared):
        assert main([*QUICK, "name=killed", f"paths.runs={tmp_path}"]) == 0
        whole = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for file in ("run.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
            (tmp_path / "killed" / file).unlink()
        assert main(["train", f"resume={tmp_path}/killed"]) == 0
    assert "starts at the first step" in capsys.readouterr().out
    again = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], whole[name]) for name in whole)
