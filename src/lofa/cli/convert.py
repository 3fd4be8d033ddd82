"""lofa convert: an adapter file -> another format; a set with its zoo -> a zoo of the published code."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lofa import workflows
from lofa.adapters import Adapter
from lofa.cli.commands import ConvertConfig
from lofa.cli.objects import check_export
from lofa.data import Sample, export_reference
from lofa.data.reference_export import EXPORTED
from lofa.errors import ConfigError
from lofa.predict import Predictor
from lofa.targets import check_target

__all__ = ["convert"]


def convert(config: ConvertConfig) -> Adapter | list[Sample]:
    """Reads an adapter, or a set, and writes it again."""
    if config.source is None:
        raise ConfigError("give in=<adapter file> to convert")
    if (Path(config.source) / "samples.jsonl").is_file():
        return _convert_set(config, config.source)
    if config.predictor is not None:
        raise ConfigError(f"predictor={config.predictor}: goes with the folder of a set; in={config.source} is none")
    dtype = check_export(config)
    adapter = Adapter.load(config.source)
    written = workflows.export_adapter(adapter, config.out, config.format, dtype, config.rank, config.overwrite)
    print(f"{config.out}: {written}")
    return adapter


def _convert_set(config: ConvertConfig, source: str) -> list[Sample]:
    if config.format != "reference" or config.dtype is not None or config.rank is not None:
        raise ConfigError(
            f"in={config.source} is a set; it can be written with format=reference alone, without dtype and rank"
        )
    check_target(config.out, config.overwrite, EXPORTED)
    stage1 = None
    if config.predictor is not None:
        predictor = Predictor.load(config.predictor, workflows.pick_device(config.device))
        if "prompt" not in predictor.arguments:
            raise ConfigError(
                f"predictor={config.predictor}: takes {', '.join(predictor.conditions)}; the format has prompts alone"
            )

        def stage1(sample: Sample) -> Mapping[str, Tensor]:
            tokens = predictor.response_tokens(sample.caption)
            assert isinstance(tokens, dict)  # one prompt
            return tokens

    samples = export_reference(source, config.out, stage1, config.overwrite)
    print(f"{config.out}: {len(samples)} LoRAs and samples" + ("" if stage1 is None else ", with stage 1's tokens"))
    return samples
