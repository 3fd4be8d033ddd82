import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lofa.files import read_tensors
from tests.training.two_processes import train_step

HERE = Path(__file__).resolve()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two gloo processes leave their results in."""
    folder = tmp_path_factory.mktemp("two-processes")
    root = HERE.parents[2]
    command = [sys.executable, str(HERE.with_name("two_processes.py")), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_of_two_processes_is_the_step_of_one(stage: int, of_two_processes: Path, tmp_path: Path) -> None:
    train_step(stage, [0, 1, 2, 3], tmp_path / "one")
    train_step(stage, [0, 2], tmp_path / "half")
    file = {1: "response.safetensors", 2: "adapter.safetensors"}[stage]
    alone, half = (read_tensors(tmp_path / run / file) for run in ("one", "half"))
    assert not torch.allclose(alone["network.head.B.16.bias"], half["network.head.B.16.bias"], rtol=1e-3, atol=1e-4)
    for strategy in ("ddp", "fsdp"):
        together = read_tensors(of_two_processes / f"{strategy}-{stage}" / file)
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                together[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
