"""The real train.py in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lofa.files import read_json, read_tensors
from tests.cli.conftest import BACKBONE, SMALL_NET

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_what_one_does(prepared: Path) -> None:
    shared = ["stage=1", BACKBONE, *SMALL_NET, "debug=fast", "trainer.accelerator=cpu", "stages.s1.layers_per_sample=4"]
    cases = {
        "single": ["stages.s1.batch_size=4"],
        "ddp": ["stages.s1.batch_size=2", "strategy=ddp", "strategy.devices=2"],
        "fsdp": ["stages.s1.batch_size=2", "strategy=fsdp", "strategy.devices=2"],
    }
    for name, values in cases.items():
        command = [sys.executable, str(ROOT / "train.py"), *shared, *values, f"name={name}, twice"]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=prepared, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
    runs = {name: prepared / "runs" / f"{name}, twice" for name in cases}
    losses = {name: read_json(run / "run.json")["metrics"]["val/loss"] for name, run in runs.items()}
    assert losses["ddp"] == pytest.approx(losses["single"], rel=1e-3)
    assert losses["fsdp"] == pytest.approx(losses["single"], rel=1e-3)
    names = {name: set(read_tensors(run / "predictor" / "response.safetensors")) for name, run in runs.items()}
    assert names["ddp"] == names["fsdp"] == names["single"]
