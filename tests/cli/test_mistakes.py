"""A user's mistakes: exit code 2, one message that says what to do, no traceback, nothing left behind."""

from pathlib import Path

import pytest
import torch

from lofa.cli import main
from lofa.cli.problems import explain

MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown command": (["trian"], ["no command 'trian'", "did you mean train"]),
    "unknown key": (["predict", "promt=x"], ["unknown key promt", "did you mean prompt?"]),
    "unknown nested key": (["zoo", "zoo.stepz=3"], ["zoo.stepz", "did you mean steps"]),
    "unknown key of a group's file": (["train", "stage=1", "strategy=ddp", "strategy.plugin.foo=1"], ["plugin.foo"]),
    "wrong type": (["generate", "prompt=x", "steps=many"], ["steps='many'", "Integer"]),
    "wrong nested type": (["train", "stage=1", "stages.s1.max_steps=abc"], ["stages.s1.max_steps='abc'"]),
    "wrong type in a sweep": (["zoo", "-m", "zoo.rank=2,x"], ["zoo.rank='x'"]),
    "missing value": (["generate"], ["prompt=...", "what the clip shows"]),
    "missing value of an alias": (["convert", "out=x"], ["in=<adapter file>"]),
    "unknown group option": (["train", "stage=1", "backbone=wan"], ["backbone=wan", "wan2.1-t2v-1.3b"]),
    "a number as group option": (["zoo", "backbone=3"], ["group", "Got int"]),
    "two commands for Hydra": (["zoo", "--cfg", "job", "--run"], ["Only one of"]),
    "unknown experiment": (["demo", "experiment=smok"], ["experiment=smok", "smoke"]),
    "bad syntax": (["zoo", "zoo.kinds=[a,"], ["zoo.kinds=[a,"]),
    "no equals sign": (["predict", "prompt"], ["key=value"]),
    "stage 3": (["train", "stage=3"], ["stage=3", "stage=1", "stage=2"]),
    "no stage": (["train"], ["stage=1"]),
    "missing data set": (["train", "stage=1", "data=none"], ["data/none", "lofa prepare"]),
    "missing data set of zoo": (["zoo", "data=none", "{backbone}"], ["data/none", "lofa prepare"]),
    "missing data set of eval": (["eval", "data=none", "{backbone}"], ["data/none", "lofa prepare"]),
    "missing run": (["train", "resume=runs/none"], ["runs/none", "config.yaml"]),
    "missing predictor": (["predict", "predictor=runs/none", "prompt=x"], ["runs/none"]),
    "no predictor at all": (["predict", "prompt=x"], ["no finished run", "stage=2"]),
    "missing source": (["prepare", "source=none", "{backbone}"], ["source=none"]),
    "missing backbone": (["prepare", "source=world", "backbone.path=none"], ["none"]),
    "missing adapter": (["generate", "prompt=x", "adapter=none.safetensors"], ["none.safetensors"]),
    "unknown ending": (["generate", "prompt=x", "out=x.avi"], [".avi", ".mp4", ".gif"]),
    "nothing to compare": (["generate", "prompt=x", "compare=true", "backbone={models}/wan"], ["compare=true"]),
    "unknown precision": (["convert", "in=x", "out=y", "dtype=int3"], ["dtype=int3", "float32"]),
    "rank 0": (["convert", "in=x", "out=y", "rank=0"], ["rank=0", "at least 1"]),
    "rank 0 of a prediction": (["predict", "prompt=x", "rank=0"], ["rank=0", "at least 1"]),
    "a picture that is none": (["inspect", "path={models}", "out=x.svg"], ["out=x.svg", ".png"]),
    "a picture of no adapter": (["inspect", "path={models}/wan", "out=x.png"], ["out=x.png", "adapter"]),
    "nothing to merge": (["merge", "adapter=none.safetensors", "out=x"], ["none.safetensors", "no such file"]),
    "nowhere to merge to": (["merge", "adapter=none.safetensors"], ["out=...", "must not exist"]),
    "a predictor for one file": (["convert", "in=x", "out=y", "predictor=z"], ["predictor=z", "set"]),
    "unknown device": (["generate", "prompt=x", "device=tpu9"], ["device=tpu9", "cpu"]),
    "unknown shard": (["zoo", "shard=3/2", "{backbone}"], ["shard", "3/2"]),
    "nothing to inspect": (["inspect", "path=none"], ["path=none"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake(case: str, inside: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, wanted = MISTAKES[case]
    given = [a.replace("{backbone}", f"backbone.path={models}/wan").replace("{models}", str(models)) for a in arguments]
    assert main(given) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert len([line for line in message.splitlines() if line.startswith(("lofa", "train.py", "eval.py"))]) == 1
    for words in wanted:
        assert words in message
    assert "-m" in given or list(inside.iterdir()) == []  # Hydra makes the folder of a sweep before anything else


def test_what_a_gpu_has_no_room_for_is_said_with_what_to_do() -> None:
    message = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual."))
    assert message is not None and message.startswith("CUDA out of memory") and "zoo.batch" in message
    assert "manual" not in message
