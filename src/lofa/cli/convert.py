"""lofa convert: an adapter file -> another format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from lofa.adapters import Adapter
from lofa.cli.command import Command
from lofa.cli.objects import pick_dtype
from lofa.cli.options import option, text
from lofa.errors import ConfigError

__all__ = ["COMMAND", "ConvertConfig"]


@dataclass
class ConvertConfig:
    """Keys of lofa convert; `in` is no name in Python, so its field is called `source`."""

    source: str | None = text(None, "adapter file, or folder of PEFT; its format is seen from its content")
    out: str = text(MISSING, "file to write (format=peft: a folder)")
    format: str = option("diffusers", "diffusers, comfyui, peft or reference")
    dtype: str | None = option(None, "precision: float32, bfloat16, float16; none: as it is")


def convert(config: Any) -> Adapter:
    """Reads an adapter and writes it again."""
    if config.source is None:
        raise ConfigError("give in=<adapter file> to convert")
    dtype = pick_dtype(config.dtype)
    adapter = Adapter.load(config.source)
    adapter.save(Path(config.out), config.format, dtype)
    print(f"{config.out}: {config.format}, {len(adapter)} layers")
    return adapter


COMMAND = Command(
    "convert",
    ConvertConfig,
    convert,
    "write an adapter file in another format",
    ("lofa convert in=wave.safetensors out=wave-comfyui.safetensors format=comfyui",),
    aliases={"in": "source"},
)
