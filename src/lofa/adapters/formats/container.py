"""What the file formats share: raw tensors in, pairs of one layer out, and back."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import split_components
from lofa.errors import AdapterFormatError, DataError
from lofa.files import read_json, read_metadata, read_tensors, read_torch

__all__ = [
    "RawFile",
    "collect_pairs",
    "folded",
    "header",
    "in_range",
    "kept_strings",
    "read_raw",
    "single_component",
    "split_header",
]

CONFIG_NAME = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
COMPONENT = "component"  # header string of ours, where a format doesn't say which part of a pipeline it belongs to
FLOAT8 = torch.float8_e4m3fn
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


def _computable(tensor: Tensor) -> Tensor:
    """float8 can be stored but not computed with; float32 holds it exactly."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


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
        if not bool(torch.isfinite(_computable(tensor)).all()):
            raise AdapterFormatError(f"{path}: tensor {name} holds NaN or infinity")
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
    if path.suffix not in PICKLE_SUFFIXES:
        return RawFile(path, read_tensors(path), read_metadata(path))
    content = read_torch(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: holds a {type(content).__name__} that is no dict of tensors")
    return RawFile(path, content)


def collect_pairs(
    raw: RawFile, prefix: str = "", scale: Callable[[str, int], float] = lambda path, rank: 1.0
) -> dict[str, LowRank]:
    """Sorts the tensors into pairs: module path without `prefix` -> pair; float8 comes as float32.

    The multiplier is the stored alpha / r; where the file stores none, it is `scale` of (module path, r).

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
    return {path: _pair(raw, path, found, scale) for path, found in parts.items()}


def _pair(raw: RawFile, path: str, found: Mapping[str, Tensor], scale: Callable[[str, int], float]) -> LowRank:
    if "A" not in found or "B" not in found:
        raise raw.error(f"layer {path} has {', '.join(sorted(found))} only, a pair needs A and B")
    A, B = _computable(found["A"]), _computable(found["B"])
    fits = A.ndim == B.ndim == 2 and A.shape[0] == B.shape[1] and 0 not in (*A.shape, *B.shape)
    if not fits or not (A.is_floating_point() and B.is_floating_point()):
        raise raw.error(
            f"layer {path}: A {tuple(A.shape)} of {A.dtype} and B {tuple(B.shape)} of {B.dtype} are no pair of a "
            "linear layer"
        )
    alpha = scale(path, A.shape[0])
    if "alpha" in found:
        if found["alpha"].numel() != 1:
            raise raw.error(f"layer {path}: alpha {tuple(found['alpha'].shape)} is no number")
        alpha = float(found["alpha"]) / A.shape[0]
    return LowRank(A, B, torch.tensor(alpha, dtype=torch.promote_types(A.dtype, torch.float32)))


def folded(pair: LowRank, dtype: torch.dtype | None, where: str) -> tuple[Tensor, Tensor]:
    """(A, alpha * B), the pair whose multiplier is 1; its delta weight is the same, bit for bit, where `dtype` is None.

    For float16 and float8 a power of two is moved between the two, so that a small alpha doesn't push B out of range.

    Raises:
        AdapterFormatError: `dtype` can't hold the values; `where` names file and layer.
    """
    A, B = pair.A, pair.scaled_B
    peaks = _peaks(A, B) if dtype in (torch.float16, FLOAT8) else None
    if peaks is not None:
        shift = _power_of_two((peaks[0] / peaks[1]) ** 0.5)
        A, B = A / shift, B * shift
    return _cast(A, dtype, where), _cast(B, dtype, where)


def in_range(pair: LowRank, dtype: torch.dtype | None, where: str) -> LowRank:
    """The pair with A and B in `dtype`, for formats that have a multiplier.

    float8_e4m3fn holds four binary digits between 2^-6 and 448: A and B are each multiplied by the power of two that
    brings their largest entry to 8...16 (so that their products stay within float16), alpha is divided by both.

    Raises:
        AdapterFormatError: as in `folded`.
    """
    A, B, alpha = pair.A, pair.B, pair.alpha
    peaks = _peaks(A, B) if dtype == FLOAT8 else None
    if peaks is not None:
        a, b = (_power_of_two(_FLOAT8_PEAK / peak) for peak in peaks)
        A, B, alpha = A * a, B * b, alpha.double() / (a * b)
    return LowRank(_cast(A, dtype, where), _cast(B, dtype, where), alpha)


_FLOAT8_PEAK = 11.3  # 8 * sqrt(2): rounding to a power of two brings a peak to 8...16
_LARGEST_ERROR = 0.05  # of a tensor's norm; rounding to float8 alone makes 0.03


def _peaks(A: Tensor, B: Tensor) -> tuple[float, float] | None:
    """The largest absolute entries; None where one of the two is all zero or empty."""
    peaks = tuple(float(tensor.abs().amax()) if tensor.numel() else 0.0 for tensor in (A, B))
    return (peaks[0], peaks[1]) if min(peaks) > 0 else None


def _power_of_two(value: float) -> float:
    return 2.0 ** round(math.log2(value))


def _cast(tensor: Tensor, dtype: torch.dtype | None, where: str) -> Tensor:
    if dtype is None or dtype == tensor.dtype:
        return tensor
    stored = tensor.to(dtype)
    exact = tensor.double()
    if not float((_computable(stored).double() - exact).norm()) <= _LARGEST_ERROR * float(exact.norm()):
        name, peak = str(dtype).removeprefix("torch."), float(exact.abs().max())
        raise AdapterFormatError(
            f"{where}: {name} can't hold its values (up to {peak:.3g}); "
            "use dtype=bfloat16, or for float8 a format with a multiplier (format=comfyui, kohya or peft)"
        )
    return stored


def split_header(raw: RawFile) -> tuple[dict[str, str], str | None]:
    """`kept_strings` of a file, and the component that they name.

    Raises:
        AdapterFormatError: a string that can be no component.
    """
    strings = kept_strings(raw.metadata)
    component = strings.pop(COMPONENT, None)
    if component is not None and not component.isidentifier():
        raise raw.error(f"the header entry {COMPONENT} is {component!r}, no name of a pipeline component")
    return strings, component


def kept_strings(metadata: Mapping[str, str]) -> dict[str, str]:
    """Header strings without those that belong to the container and would be wrong in another file."""
    return {key: value for key, value in metadata.items() if key not in ("format", DIFFUSERS_METADATA)}


def header(metadata: Mapping[str, str], component: str | None = None) -> dict[str, str]:
    """The strings that the header of a file gets."""
    return {"format": "pt", **kept_strings(metadata)} | ({} if component is None else {COMPONENT: component})


def single_component(layers: Mapping[str, LowRank], format: str) -> tuple[str, dict[str, LowRank]]:
    """(component, module path -> pair) of an adapter for a format that holds one component.

    Raises:
        AdapterFormatError: no layers, or more than one component.
    """
    groups = split_components(layers)
    if len(groups) != 1:
        raise AdapterFormatError(
            f"the {format} format holds one component, the adapter has {', '.join(groups) or 'no layers'}; "
            "use format=diffusers"
        )
    return next(iter(groups.items()))
