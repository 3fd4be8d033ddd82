"""One training step of each stage, alone or as one of two processes.

Run as `python two_processes.py <folder>` it forks the two. Every step leaves a predictor folder
<folder>/<strategy>-<stage>/ with the parameters after it.
"""

import os
import socket
import sys
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from lofa.predict import save_predictor
from tests.training.pieces import ToyBackbone, adapter_module, batch_of, response_module


def train_step(stage: int, rows: list[int], folder: Path, strategy: Strategy | str = "auto", devices: int = 1) -> None:
    """Takes one clipped SGD step on these rows and writes what came of it."""
    backbone = ToyBackbone()
    make = response_module if stage == 1 else adapter_module
    module = make(backbone, optimizer=partial(torch.optim.SGD, lr=1.0), scheduler=None)
    data = DataLoader([batch_of(rows, backbone)], batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_steps=1,
        gradient_clip_val=0.05,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, data)
    save_predictor(folder, backbone, conditions=["text"], hypernet=module.hypernet)


def process(rank: int, folder: Path, port: int) -> None:
    """What one of the two does; the variables are those torchrun sets."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    variables = shared | {"RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in variables.items()})
    for stage in (1, 2):
        rows = [0, 1, 2, 3][rank::2]
        train_step(stage, rows, folder / f"ddp-{stage}", DDPStrategy(process_group_backend="gloo"), devices=2)
        sharded = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
        train_step(stage, rows, folder / f"fsdp-{stage}", sharded, devices=2)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    start_processes(process, args=(Path(sys.argv[1]), free), nprocs=2, start_method="fork")
