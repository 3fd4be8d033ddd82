"""lofa inspect: what an adapter, a sample, a data set or a run holds."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table

from lofa.adapters import Adapter
from lofa.adapters.formats import detect_format
from lofa.adapters.formats.container import read_raw
from lofa.cli.command import Command
from lofa.cli.options import option, text
from lofa.data import ZooStore, read_samples
from lofa.errors import AdapterFormatError, DataError
from lofa.files import read_json, read_metadata, tensor_shapes
from lofa.predict import read_description

__all__ = ["COMMAND", "InspectConfig"]

Facts = dict[str, str]


@dataclass
class InspectConfig:
    """Keys of lofa inspect."""

    path: str = text(MISSING, "adapter file or PEFT folder, .safetensors file, data set, run or predictor")
    layers: bool = option(False, "also one line a layer or tensor")


def inspect(config: Any) -> Facts:
    """Prints a table of what is found at `path`."""
    path = Path(config.path)
    if not path.exists():
        raise DataError(f"path={path}: no such file or folder")
    facts, parts = _look(path)
    table = Table(title=str(path), show_header=False, title_justify="left")
    for name, value in (facts | (parts if config.layers else {})).items():
        table.add_row(name, value)
    Console().print(table, markup=False)
    return facts


def _look(path: Path) -> tuple[Facts, Facts]:
    """Facts, and a line for each layer or tensor."""
    if path.is_dir():
        if (path / "samples.jsonl").is_file():
            return _data_set(path), {}
        if (
            any((folder / "predictor.json").is_file() for folder in (path, path / "predictor"))
            or (path / "run.json").is_file()
        ):
            return _run(path), {}
    try:
        return _adapter(path)
    except AdapterFormatError:
        if path.suffix != ".safetensors":
            raise
    shapes = tensor_shapes(path)
    facts = {"kind": "sample" if "latents" in shapes else "tensors", "tensors": str(len(shapes)), **read_metadata(path)}
    return facts, {name: "x".join(map(str, shape)) for name, shape in shapes.items()}


def _adapter(path: Path) -> tuple[Facts, Facts]:
    adapter = Adapter.load(path)
    some = next(iter(adapter.values()))
    facts = {
        "kind": f"adapter, {detect_format(read_raw(path))} format",
        "layers": str(len(adapter)),
        "rank": _span([pair.rank for pair in adapter.values()]),
        "alpha": _span([round(float(pair.alpha), 6) for pair in adapter.values()]),
        "precision": str(some.A.dtype).removeprefix("torch."),
        "norm": f"{sum(float(pair.delta_weight().square().sum()) for pair in adapter.values()) ** 0.5:.4g}",
    }
    parts = {
        name: f"{pair.B.shape[0]}x{pair.A.shape[1]}, rank {pair.rank}, alpha {float(pair.alpha):.4g}, "
        f"norm {float(pair.delta_weight().norm()):.4g}"
        for name, pair in adapter.items()
    }
    return facts | adapter.metadata, parts


def _data_set(path: Path) -> Facts:
    samples = read_samples(path)
    entries = ZooStore(path).entries().values()
    description = read_json(path / "set.json") if (path / "set.json").is_file() else {}
    return {
        "kind": "data set",
        "backbone": str(description.get("backbone", "unknown")),
        "samples": _counts(sample.split for sample in samples),
        "groups": str(len({sample.group for sample in samples})),
        "clips": f"{samples[0].frames} frames of {samples[0].size[1]}x{samples[0].size[0]}",
        "encoded": ", ".join(sorted({name for sample in samples for name in sample.encoded})),
        "LoRAs": _counts(entry.status for entry in entries) or "none",
    }


def _run(path: Path) -> Facts:
    summary = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    facts = {key: str(value) for key, value in summary.items() if key != "metrics"}
    facts |= {name: f"{value:.4g}" for name, value in summary.get("metrics", {}).items()}
    description = read_description(path)
    return {
        "kind": "predictor",
        "takes": description.condition,
        "backbone": description.backbone,
        "layers": str(len(description.layers)),
        "stages": ", ".join(description.stages),
    } | facts


def _counts(names: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


COMMAND = Command(
    "inspect",
    InspectConfig,
    inspect,
    "show what an adapter, sample, data set or run holds",
    ("lofa inspect path=wave.safetensors", "lofa inspect path=data/world", "lofa inspect path=runs/demo/stage2-..."),
)
