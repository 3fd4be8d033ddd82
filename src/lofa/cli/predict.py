"""lofa predict: a prompt or pose sequence -> an adapter file."""

import time
from dataclasses import dataclass
from typing import Any

from lofa.adapters import Adapter
from lofa.cli.command import Command
from lofa.cli.export import check_export, export_adapter, overwrite
from lofa.cli.objects import load_predictor
from lofa.cli.options import option, text

__all__ = ["COMMAND", "PredictConfig"]


@dataclass
class PredictConfig:
    """Keys of lofa predict; `backbone` is the name of a group in Hydra, so its field is called `model`."""

    predictor: str | None = text(None, "run directory of train.py stage=2; none: the one finished last in `runs`")
    prompt: str | None = text(None, "what the adapter is for, in words")
    pose: str | None = text(None, "or a pose sequence (frames, joints, 2): .npy, .npz or .json")
    image: str | None = text(None, "or an image, for predictors that take one")
    out: str = text("adapter.safetensors", "file to write (format=peft: a folder)")
    format: str = option("diffusers", "diffusers, comfyui, kohya, peft or reference")
    dtype: str | None = option(
        None, "precision of the file: float32, bfloat16, float16, float8_e4m3fn; none: as computed"
    )
    rank: int | None = option(None, "highest rank: the nearest adapter of it, by singular values; none: as predicted")
    overwrite: bool = overwrite()
    device: str = option("auto", "cpu, cuda, cuda:1 or auto")
    model: str | None = text(None, "where the predictor's backbone lies now; none: where it was in training")
    runs: str = text("runs", "folder of the runs, where `predictor` is looked for")


def predict(config: Any) -> Adapter:
    """Predicts one adapter and writes it."""
    check_export(config)
    predictor = load_predictor(config)
    begun = time.perf_counter()
    adapter = predictor.predict(prompt=config.prompt, pose=config.pose, image=config.image)
    seconds = time.perf_counter() - begun
    print(f"{config.out}: {export_adapter(adapter, config)}, predicted in {seconds:.2f} s")
    return adapter


COMMAND = Command(
    "predict",
    PredictConfig,
    predict,
    "predict an adapter file from a prompt or a pose sequence",
    (
        'lofa predict predictor=<run> prompt="a figure waves the left arm" out=wave.safetensors',
        "lofa predict predictor=<run> pose=poses.npy out=wave.safetensors format=comfyui",
    ),
    aliases={"backbone": "model"},
)
