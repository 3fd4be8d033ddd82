"""What an adapter, a sample, a data set or a run holds."""

from collections import Counter
from pathlib import Path
from typing import Any

from lofa.adapters.formats import detect_format, identify
from lofa.adapters.formats.container import RawFile, read_raw
from lofa.adapters.formats.foreign import ForeignLora
from lofa.backbones import merged_adapters
from lofa.data import ZooStore, read_samples
from lofa.errors import AdapterFormatError, ConfigError, DataError
from lofa.files import read_json, read_metadata, tensor_shapes
from lofa.predict import read_description
from lofa.workflows.adapters import Facts, adapter_facts, span

__all__ = ["inspect"]


def inspect(
    path: Path, model: str | None = None, tau: float = 0.02, picture: Path | None = None
) -> tuple[Facts, Facts]:
    """Facts of what lies at `path`, and a line for each layer or tensor.

    Args:
        path: adapter file or PEFT folder, .safetensors file, data set, run, predictor or model
        model: of an adapter: name of a backbone or folder whose W it is measured against; None: the adapter's own
        tau: relative change from which on an entry of W counts as responding
        picture: of an adapter: .png to write

    Raises:
        LofaError: nothing there, something damaged, or a picture of what is no adapter.
    """
    if not path.exists():
        raise DataError(f"path={path}: no such file or folder")
    found = _folder(path) if path.is_dir() else None
    if found is None:
        raw, kind = _open_adapter(path)
        if isinstance(kind, str):
            return adapter_facts(raw, kind, model, tau, picture)
        found = None if kind is None else _foreign(kind)
    if picture is not None:
        raise ConfigError(f"out={picture}: the picture is of an adapter that can be used here; path={path} is none")
    if found is not None:
        return found, {}
    shapes = tensor_shapes(path)
    facts = {"kind": "sample" if "latents" in shapes else "tensors", "tensors": str(len(shapes)), **read_metadata(path)}
    return facts, {name: "x".join(map(str, shape)) for name, shape in shapes.items()}


def _folder(path: Path) -> Facts | None:
    """Facts of a data set, run, predictor or model; None for other folders."""
    if (path / "samples.jsonl").is_file():
        return _data_set(path)
    if any((path / name).is_file() for name in ("predictor.json", "predictor/predictor.json", "run.json")):
        return _run(path)
    return _model(path) if (path / "model_index.json").is_file() else None


def _open_adapter(path: Path) -> tuple[RawFile, str | ForeignLora | None]:
    """The file and its kind; None for a .safetensors file that holds something else than a LoRA."""
    try:
        raw = read_raw(path)
        kind = identify(raw)
        return raw, detect_format(raw) if kind is None and path.suffix != ".safetensors" else kind
    except AdapterFormatError:
        if path.suffix != ".safetensors" or any("lora" in name for name in tensor_shapes(path)):
            raise
        return RawFile(path, {}), None


def _foreign(lora: ForeignLora) -> Facts:
    return {
        "kind": f"LoRA of another model, {lora.format} format",
        "made for": lora.model,
        "layers": ", ".join(f"{count} {part}" for part, count in lora.parts.items()),
        "rank": span(lora.ranks) if lora.ranks else "unknown",
        "use": "none here: LoFA has no layer table for this model",
    }


def _model(path: Path) -> Facts:
    index = read_json(path / "model_index.json")
    merged = [
        f"{entry.get('adapter', 'an adapter')} x{entry['strength']:g} ({entry['layers']} layers)"
        for entry in merged_adapters(path)
    ]
    return {
        "kind": "model, diffusers folder",
        "pipeline": str(index.get("_class_name")),
        "components": ", ".join(name for name, made_of in index.items() if isinstance(made_of, list) and all(made_of)),
        "merged": ", ".join(merged) or "nothing",
    }


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
        "takes": ", ".join(description.conditions),
        "backbone": description.backbone.name,
        "layers": str(len(description.layers)),
        "hypernetwork": f"{description.hypernet}: {', '.join(description.parts)}",
    } | facts


def _counts(names: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))
