"""What the file formats share: raw tensors in, pairs of one layer out, and back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import split_components
from lofa.errors import AdapterFormatError, DataError
from lofa.files import read_json, read_metadata, read_tensors, read_torch

__all__ = ["RawFile", "RawPair", "collect_pairs", "folded", "metadata_to_keep", "read_raw", "single_component"]

CONFIG_NAME = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")

_PART = re.compile(
    r"(?P<path>.+)\.(?:(?P<A>lora_A(?:\.default)?|lora_down|lora\.down)\.weight"
    r"|(?P<B>lora_B(?:\.default)?|lora_up|lora\.up)\.weight|(?P<alpha>alpha))"
)


@dataclass(frozen=True)
class RawFile:
    """An adapter file as it lies on disk: its tensors, header strings and, for PEFT, its `adapter_config.json`."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None

    def error(self, problem: str) -> AdapterFormatError:
        """The error for this file: the problem and what was found in it."""
        names = sorted(self.tensors)
        return AdapterFormatError(
            f"{self.path}: {problem}. Found {len(names)} tensors: {', '.join(names[:4])}{', ...' if names[4:] else ''}"
        )


@dataclass(frozen=True)
class RawPair:
    """A (r, in), B (out, r) and the stored alpha, as the format means it (None: the file has none)."""

    A: Tensor
    B: Tensor
    alpha: float | None

    def to_low_rank(self, default_scale: float = 1.0) -> LowRank:
        """The pair with multiplier alpha / r, or `default_scale` where the file stores no alpha."""
        alpha = default_scale if self.alpha is None else self.alpha / self.A.shape[0]
        return LowRank(self.A, self.B, torch.tensor(alpha, dtype=torch.promote_types(self.A.dtype, torch.float32)))


def read_raw(path: str | Path) -> RawFile:
    """Opens a file or folder without knowing its format.

    Raises:
        AdapterFormatError: missing, damaged, or holding something else than finite tensors.
    """
    path = Path(path)
    if path.name == PEFT_WEIGHTS and (path.parent / CONFIG_NAME).is_file():
        path = path.parent
    try:
        raw = _read_folder(path) if path.is_dir() else _read_file(path)
    except DataError as error:
        raise AdapterFormatError(str(error)) from None
    for name, tensor in raw.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterFormatError(
                f"{path}: tensor {name} holds NaN or infinity; the adapter is spoilt, make it again"
            )
    return raw


def _read_folder(path: Path) -> RawFile:
    if (path / CONFIG_NAME).is_file():
        weights = path / PEFT_WEIGHTS
        config = read_json(path / CONFIG_NAME)
        if not isinstance(config, dict):
            raise DataError(f"{path / CONFIG_NAME}: not a PEFT configuration (a json object)")
        return RawFile(path, read_tensors(weights), read_metadata(weights), config)
    if (path / DIFFUSERS_WEIGHTS).is_file():
        return _read_file(path / DIFFUSERS_WEIGHTS)
    found = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "nothing"
    raise DataError(
        f"{path}: a folder holds an adapter as {CONFIG_NAME} + {PEFT_WEIGHTS} or {DIFFUSERS_WEIGHTS}; found {found}"
    )


def _read_file(path: Path) -> RawFile:
    if path.suffix in PICKLE_SUFFIXES:
        return RawFile(path, _read_pickle(path))
    return RawFile(path, read_tensors(path), read_metadata(path))


def _read_pickle(path: Path) -> dict[str, Tensor]:
    content = read_torch(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: holds a {type(content).__name__} that is no dict of tensors")
    return content


def collect_pairs(raw: RawFile, prefix: str = "") -> dict[str, RawPair]:
    """Sorts the tensors into pairs: module path without `prefix` -> pair.

    Raises:
        AdapterFormatError: a tensor that is no part of a pair (DoRA scales, biases, full differences), half a pair,
            or shapes that don't fit.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in raw.tensors.items():
        match = _PART.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is None:
            raise raw.error(f"tensor {name} is no part of a LoRA pair (lora_A, lora_B, lora_down, lora_up, alpha)")
        part = next(key for key in ("A", "B", "alpha") if match[key])
        parts.setdefault(match["path"], {})[part] = tensor
    return {path: _pair(raw, path, found) for path, found in parts.items()}


def _pair(raw: RawFile, path: str, found: Mapping[str, Tensor]) -> RawPair:
    if "A" not in found or "B" not in found:
        raise raw.error(f"layer {path} has {', '.join(sorted(found))} only, a pair needs A and B")
    A, B = found["A"], found["B"]
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1] or found.get("alpha", A[:1, :1]).numel() != 1:
        raise raw.error(f"layer {path}: A {tuple(A.shape)} and B {tuple(B.shape)} are no pair of a linear layer")
    return RawPair(A, B, float(found["alpha"]) if "alpha" in found else None)


def folded(pair: LowRank, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """(A, alpha * B), the pair whose multiplier is 1; its delta weight is the same, bit for bit, where `dtype` is None.

    For float16 a power of two is moved between the two, so that a small alpha doesn't push B out of its range.
    """
    A, B = pair.A, pair.scaled_B
    peaks = (float(A.abs().amax()), float(B.abs().amax())) if dtype == torch.float16 and pair.rank else (0.0, 0.0)
    if min(peaks) > 0:
        shift = 2.0 ** round(torch.tensor(peaks[0] / peaks[1]).log2().item() / 2)
        A, B = A / shift, B * shift
    return A.to(dtype=dtype), B.to(dtype=dtype)


def metadata_to_keep(metadata: Mapping[str, str]) -> dict[str, str]:
    """Header strings without those that belong to the container and would be wrong in another file."""
    return {key: value for key, value in metadata.items() if key not in ("format", DIFFUSERS_METADATA)}


def single_component(layers: Mapping[str, LowRank], format: str) -> tuple[str, list[str]]:
    """(component, module paths) of an adapter for a format that holds one component.

    Raises:
        AdapterFormatError: no layers, or more than one component.
    """
    groups = split_components(layers)
    if len(groups) != 1:
        raise AdapterFormatError(
            f"the {format} format holds one component, the adapter has {', '.join(groups) or 'no layers'}; "
            "save each component by itself, or use format=diffusers"
        )
    return next(iter(groups.items()))
