"""Commands that end in an adapter file, or begin with one: predict, convert, merge, inspect."""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lofa import workflows
from lofa.adapters import Adapter
from lofa.adapters.formats import check_adapter_target
from lofa.cli.commands import ConvertConfig, InspectConfig, MergeConfig, PredictConfig
from lofa.cli.objects import load_predictor
from lofa.data import Sample, export_reference
from lofa.errors import ConfigError
from lofa.predict import Predictor
from lofa.targets import NEW_FOLDER, check_target

__all__ = ["convert", "inspect", "merge", "predict"]


def predict(config: PredictConfig) -> Adapter:
    """A prompt, pose sequence or image -> an adapter file."""
    dtype = _check_export(config)
    predictor = load_predictor(config)
    begun = time.perf_counter()
    adapter = predictor.predict(prompt=config.prompt, pose=config.pose, image=config.image)
    _export(adapter, config, dtype, f", predicted in {time.perf_counter() - begun:.2f} s")
    return adapter


def convert(config: ConvertConfig) -> Adapter | list[Sample]:
    """An adapter file -> another format; a set with its zoo -> a zoo of the published code."""
    if config.source is None:
        raise ConfigError("give in=<adapter file> to convert")
    if (Path(config.source) / "samples.jsonl").is_file():
        return _convert_set(config, config.source)
    if config.predictor is not None:
        raise ConfigError(f"predictor={config.predictor}: goes with the folder of a set; in={config.source} is none")
    dtype = _check_export(config)
    adapter = Adapter.load(config.source)
    _export(adapter, config, dtype)
    return adapter


def _check_export(config: PredictConfig | ConvertConfig) -> torch.dtype | None:
    """The precision of the file; refuses what could not be written, before anything is computed."""
    check_adapter_target(config.out, config.format, config.overwrite)
    return None if config.dtype is None else getattr(torch, config.dtype)


def _export(
    adapter: Adapter, config: PredictConfig | ConvertConfig, dtype: torch.dtype | None, words: str = ""
) -> None:
    written = workflows.export_adapter(adapter, config.out, config.format, dtype, config.rank, config.overwrite)
    print(f"{config.out}: {written}{words}")


def _convert_set(config: ConvertConfig, source: str) -> list[Sample]:
    if config.format != "reference" or config.dtype is not None or config.rank is not None:
        raise ConfigError(
            f"in={config.source} is a set; it can be written with format=reference alone, without dtype and rank"
        )
    check_target(config.out, False, NEW_FOLDER)
    stage1 = None
    if config.predictor is not None:
        predictor = Predictor.load(config.predictor, workflows.pick_device(config.device))
        if "prompt" not in predictor.arguments:
            takes = ", ".join(predictor.conditions)
            raise ConfigError(f"predictor={config.predictor}: takes {takes}; the format has prompts alone")

        def stage1(sample: Sample) -> Mapping[str, Tensor]:
            tokens = predictor.response_tokens(sample.caption)
            assert isinstance(tokens, dict)  # one prompt
            return tokens

    samples = export_reference(source, config.out, stage1)
    print(f"{config.out}: {len(samples)} LoRAs and samples" + ("" if stage1 is None else ", with stage 1's tokens"))
    return samples


def merge(config: MergeConfig) -> Path:
    """An adapter into its backbone -> a diffusers folder."""
    return workflows.merge(config.adapter, config.out, config.strength, config.model, config.overwrite)


def inspect(config: InspectConfig) -> dict[str, str]:
    """Prints a table of what is found at `path`."""
    path, out = Path(config.path), None if config.out is None else Path(config.out)
    if out is not None and out.suffix.lower() != ".png":
        raise ConfigError(f"out={out}: the picture is a .png")
    if out is not None:
        check_target(out, config.overwrite)
    facts, parts = workflows.inspect(path, config.model, config.tau, out)
    table = Table(title=str(path), show_header=False, title_justify="left")
    for name, value in (facts | (parts if config.layers else {})).items():
        table.add_row(name, value)
    Console().print(table, markup=False)
    return facts
