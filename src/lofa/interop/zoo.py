"""The files of the published code's zoo.

    <folder>/metadata.json              a list of {"file_name": LoRA file, "input_emb": sample file}, paths below it
    LoRA files (.pth)                   original names of Wan, multiplier 1: the adapter format "reference"
    sample files (.pth)                 {"prompt_emb": (N, C), zero behind the prompt; "latents": (C, T, H, W)}
    stage1/<stem of the sample file>.tensors.pth
                                        {"hidden_states": {original layer name: (T, d)}}: stage I's final tokens of the
                                        sample's prompt, which the published stage II trains on
Torch files are opened with weights only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lofa.adapters.families.wan import WAN
from lofa.adapters.names import join_name, split_name
from lofa.errors import DataError
from lofa.files import read_json, read_torch, save_torch
from lofa.paths import inside

__all__ = ["INDEX", "listed", "read_index", "read_sample", "read_stage1", "stage1_path", "write_sample", "write_stage1"]

INDEX = "metadata.json"
_PROMPT, _LATENTS, _HIDDEN = "prompt_emb", "latents", "hidden_states"


def read_index(folder: Path) -> list[Any]:
    """The entries of `metadata.json`, as they are (DataError: it is missing or no list)."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder}: no {INDEX} in it; a published zoo is a folder that has one")
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list of entries")
    return entries


def listed(folder: Path, name: str, where: str) -> Path:
    """The file that an entry names, in `folder` or a folder below (DataError: it leads out, by name or by link)."""
    try:
        return inside(folder, folder / name)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def read_sample(path: Path) -> tuple[Tensor, Tensor]:
    """Prompt tokens (N, C), zero behind the prompt, and latents (C, T, H, W) of a sample, mapped rather than read.

    DataError: no such file, or it holds something else.
    """
    values = read_torch(path, mmap=True)
    for name, ndim in {_PROMPT: 2, _LATENTS: 4}.items():
        value = values.get(name) if isinstance(values, dict) else None
        if not isinstance(value, Tensor) or value.ndim != ndim:
            raise DataError(f"{path}: holds no tensor {name} of {ndim} dimensions")
    return values[_PROMPT], values[_LATENTS]


def write_sample(path: Path, prompt: Tensor, latents: Tensor) -> None:
    """Inverse of `read_sample`."""
    save_torch(path, {_PROMPT: prompt, _LATENTS: latents})


def stage1_path(folder: Path, sample_file: str) -> Path:
    """Where stage I's tokens of a sample lie."""
    return folder / "stage1" / f"{Path(sample_file).stem}.tensors.pth"


def read_stage1(path: Path) -> dict[str, Tensor]:
    """Stage I's tokens (T, d) by layer name ("transformer.blocks.0.attn1.to_q"); DataError as `read_sample`."""
    values = read_torch(path, mmap=True)
    hidden = values.get(_HIDDEN) if isinstance(values, dict) else None
    if not isinstance(hidden, dict) or not hidden:
        raise DataError(f"{path}: holds no {_HIDDEN} by layer")
    tokens = {}
    for original, value in hidden.items():
        name = WAN.path(str(original))
        if name is None or not isinstance(value, Tensor) or value.ndim != 2:
            raise DataError(f"{path}: {_HIDDEN}[{original!r}] is no (T, d) tensor of a layer of Wan")
        tokens[join_name(next(iter(WAN.components)), name)] = value
    return tokens


def write_stage1(path: Path, tokens: Mapping[str, Tensor]) -> None:
    """Inverse of `read_stage1` (DataError: a layer that is none of Wan's)."""
    hidden = {}
    for name, value in tokens.items():
        original = WAN.original(split_name(name)[1])
        if original is None:
            raise DataError(f"{path}: not written, layer {name} is none of Wan's")
        hidden[original] = value
    save_torch(path, {_HIDDEN: hidden})
