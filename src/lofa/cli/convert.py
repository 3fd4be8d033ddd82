"""lofa convert: an adapter file -> another format; a set with its zoo -> a zoo of the published code."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from torch import Tensor

from lofa.adapters import Adapter
from lofa.cli.command import Command
from lofa.cli.export import check_export, export_adapter, overwrite
from lofa.cli.objects import pick_device
from lofa.cli.options import option, text
from lofa.data import Sample, export_reference
from lofa.data.reference_export import EXPORTED
from lofa.errors import ConfigError
from lofa.predict import Predictor
from lofa.targets import check_target

__all__ = ["COMMAND", "ConvertConfig"]


@dataclass
class ConvertConfig:
    """Keys of lofa convert; `in` is no name in Python, so its field is called `source`."""

    source: str | None = text(
        None, "adapter file, or folder of PEFT; its format is seen from its content. Or the folder of a set"
    )
    out: str = text(MISSING, "file to write (format=peft, or a set: a folder)")
    format: str = option("diffusers", "diffusers, comfyui, kohya, peft or reference")
    dtype: str | None = option(None, "precision: float32, bfloat16, float16, float8_e4m3fn; none: as it is")
    rank: int | None = option(None, "highest rank: the nearest adapter of it, by singular values; none: as it is")
    predictor: str | None = text(
        None, "of a set, format=reference: run whose stage 1 gives the tokens in stage1/; none: without them"
    )
    overwrite: bool = overwrite()
    device: str = option("auto", "for the predictor: cpu, cuda, cuda:1 or auto")


def convert(config: Any) -> Adapter | list[Sample]:
    """Reads an adapter, or a set, and writes it again."""
    if config.source is None:
        raise ConfigError("give in=<adapter file> to convert")
    if (Path(config.source) / "samples.jsonl").is_file():
        return _convert_set(config)
    if config.predictor is not None:
        raise ConfigError(f"predictor={config.predictor}: goes with the folder of a set; in={config.source} is none")
    check_export(config)
    adapter = Adapter.load(config.source)
    print(f"{config.out}: {export_adapter(adapter, config)}")
    return adapter


def _convert_set(config: Any) -> list[Sample]:
    if config.format != "reference" or config.dtype is not None or config.rank is not None:
        raise ConfigError(
            f"in={config.source} is a set; it can be written with format=reference alone, without dtype and rank"
        )
    check_target(config.out, config.overwrite, EXPORTED)
    stage1 = None
    if config.predictor is not None:
        predictor = Predictor.load(config.predictor, pick_device(config.device))
        if "prompt" not in predictor.arguments:
            raise ConfigError(
                f"predictor={config.predictor}: takes {', '.join(predictor.conditions)}; the format has prompts alone"
            )

        def stage1(sample: Sample) -> Mapping[str, Tensor]:
            tokens = predictor.response_tokens(sample.caption)
            assert isinstance(tokens, dict)  # one prompt
            return tokens

    samples = export_reference(config.source, config.out, stage1, config.overwrite)
    print(f"{config.out}: {len(samples)} LoRAs and samples" + ("" if stage1 is None else ", with stage 1's tokens"))
    return samples


COMMAND = Command(
    "convert",
    ConvertConfig,
    convert,
    "write an adapter file in another format",
    (
        "lofa convert in=wave.safetensors out=wave-comfyui.safetensors format=comfyui",
        "lofa convert in=wave.safetensors out=wave-small.safetensors format=kohya dtype=float8_e4m3fn rank=2",
        "lofa convert in=data/demo out=published format=reference          a whole set, for the published code",
    ),
    aliases={"in": "source"},
)
