import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lofa.files import read_tensors
from tests.training.two_processes import train_step

HERE = Path(__file__).resolve()


@pytest.fixture(scope="module")
def pair_of_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two gloo processes, started as torchrun would, leave their results in."""
    folder = tmp_path_factory.mktemp("two-processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = HERE.parents[2]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]),
    }
    command = [sys.executable, str(HERE.with_name("two_processes.py")), str(folder)]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return folder


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_step_of_two_processes_is_the_step_of_one(
    strategy: str, stage: int, pair_of_processes: Path, tmp_path: Path
) -> None:
    train_step(stage, [0, 1, 2, 3], tmp_path / "one")
    alone = read_tensors(tmp_path / "one" / "response.safetensors")
    together = read_tensors(pair_of_processes / f"{strategy}-{stage}" / "response.safetensors")
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            together[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
