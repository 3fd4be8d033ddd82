"""Adapter files: one object a format, and which one a file is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from lofa.adapters.families import FAMILIES
from lofa.adapters.formats import diffusers, peft
from lofa.adapters.formats.container import PICKLE_SUFFIXES, RawFile, read_raw
from lofa.adapters.formats.foreign import ForeignLora, recognise
from lofa.adapters.formats.original import COMFYUI, KOHYA, REFERENCE
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import join_name, split_components
from lofa.errors import AdapterFormatError
from lofa.targets import Kind, check_target

__all__ = [
    "FORMATS",
    "AdapterFormat",
    "check_adapter_target",
    "detect_format",
    "identify",
    "read_adapter",
    "write_adapter",
]


class AdapterFormat(Protocol):
    """What a format offers."""

    @property
    def KIND(self) -> Kind:
        """What it writes, and may therefore replace."""

    @property
    def ONE_COMPONENT(self) -> bool:
        """Whether a file holds layers of one pipeline component alone."""

    def matches(self, raw: RawFile) -> bool:
        """Whether the file is of this format."""

    def read(self, raw: RawFile) -> tuple[dict[str, LowRank], dict[str, str]]:
        """Layers and header strings of a file that matches."""

    def write(
        self, path: Path, layers: Mapping[str, LowRank], metadata: Mapping[str, str], dtype: torch.dtype | None
    ) -> None:
        """Writes an adapter."""


FORMATS: dict[str, AdapterFormat] = {
    "diffusers": diffusers,
    "comfyui": COMFYUI,
    "kohya": KOHYA,
    "peft": peft,
    "reference": REFERENCE,
}
_ENDINGS = (*PICKLE_SUFFIXES, ".safetensors")


def identify(raw: RawFile) -> str | ForeignLora | None:
    """Name of the format of a file, or what it is where it is a LoRA of another model; None for all else."""
    own = next((name for name, format in FORMATS.items() if raw.tensors and format.matches(raw)), None)
    other = recognise(raw)
    return other if own is None or (other is not None and other.is_older) else own


def detect_format(raw: RawFile) -> str:
    """Name of the format of a file.

    Raises:
        AdapterFormatError: none of them; says what was found, by name where it is a LoRA of another model.
    """
    found = identify(raw)
    if isinstance(found, str):
        return found
    if found is None:
        raise raw.error(f"no adapter file of a known format ({', '.join(FORMATS)})")
    raise raw.error(f"{found}, which can be inspected but not used: LoFA has layer tables for {', '.join(FAMILIES)}")


def read_adapter(path: str | Path) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Reads layers and header strings of an adapter file (AdapterFormatError as in `Adapter.load`)."""
    raw = read_raw(path)
    return FORMATS[detect_format(raw)].read(raw)


def check_adapter_target(path: str | Path, format: str, overwrite: bool) -> None:
    """Asks whether an adapter can be written at `path`, before one is computed.

    Raises:
        AdapterFormatError: an unknown format, or an ending that readers would take for another one.
        TargetError: something stands there; with `overwrite`, something that is no file (PEFT: no such folder).
    """
    if format not in FORMATS:
        raise AdapterFormatError(f"unknown adapter format {format!r}; there are {', '.join(FORMATS)}")
    if (Path(path).suffix in PICKLE_SUFFIXES) != (format == "reference") and Path(path).suffix in _ENDINGS:
        right = ".pth" if format == "reference" else "no ending (a folder)" if format == "peft" else ".safetensors"
        raise AdapterFormatError(f"{path}: readers go by the ending, and that of format={format} is {right}")
    check_target(path, overwrite, FORMATS[format].KIND)


def write_adapter(
    path: str | Path,
    layers: Mapping[str, LowRank],
    metadata: Mapping[str, str],
    format: str,
    dtype: torch.dtype | None,
    overwrite: bool,
) -> list[Path]:
    """Writes an adapter file, or one a component (errors as in `Adapter.save`). Returns their paths."""
    check_adapter_target(path, format, overwrite)
    files = _files(Path(path), layers, format)
    for file in files:
        check_adapter_target(file, format, overwrite)
    for name, pair in layers.items():
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (pair.A, pair.B, pair.alpha)):
            raise AdapterFormatError(f"{path}: not written, layer {name} of the adapter holds NaN or infinity")
    for file, part in files.items():
        FORMATS[format].write(file, part, metadata, dtype)
    return list(files)


def _files(path: Path, layers: Mapping[str, LowRank], format: str) -> dict[Path, Mapping[str, LowRank]]:
    """The files that an adapter becomes: `path`, or one a component where the format holds one alone."""
    components = split_components(layers)
    family = next((family for family in FAMILIES.values() if family.components.keys() >= components.keys()), None)
    if len(components) < 2 or not FORMATS[format].ONE_COMPONENT or family is None:
        return {path: layers}
    return {
        path.with_name(f"{path.stem}-{family.components[component]}{path.suffix}"): {
            join_name(component, module): pair for module, pair in pairs.items()
        }
        for component, pairs in components.items()
    }
