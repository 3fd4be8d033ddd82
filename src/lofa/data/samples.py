"""The samples of a set: one json line each in `samples.jsonl`, one safetensors file each under `encoded/`.

An encoded file holds `latents` (C, T', H', W'), normalised as the transformer takes them, and a row of each kind of
condition that the sample has under the kind's own key: `condition.text` (N, width) without padding always, and, where
the clip has joints, `condition.pose` (T, J, 2). What else the backbone makes of a prompt is stored as `extras.<name>`.
Its metadata names the backbone it was made for, and reading refuses any other.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from sys import intern
from typing import Any

import torch
from torch import Tensor

from lofa.backbones import Fingerprinted
from lofa.conditions import CONDITIONS, PROMPT, Condition
from lofa.data.options import SPLIT_NAMES
from lofa.errors import DataError
from lofa.files import read_jsonl, save_tensors, write_jsonl
from lofa.paths import Location, Place, check_name, inside, listing, locate
from lofa.ranges import open_tensors

__all__ = [
    "LATENTS", "ROLES", "SPLIT_NAMES", "Encoded", "Sample", "check_backbone", "encoded_path", "find_encoded",
    "prompt_of", "read_encoded", "read_samples", "values_of", "write_encoded", "write_samples",
]  # fmt: skip

LATENTS, EXTRAS = "latents", "extras."
ROLES = ("adapt", "score")
_VERSION = "lofa-sample-1"


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip with its caption."""

    id: str
    caption: str
    split: str
    """train, val or test"""
    group: str
    """what clips that show the same thing share: the action"""
    role: str
    """adapt: adaptation may see the clip; score: it is kept for measuring"""
    source: str
    """where it came from: "world", a file, or a file and a place in it"""
    frames: int
    size: tuple[int, int]
    """height and width in pixels"""
    fps: float
    seed: int = 0
    """what drew the clip, where something was drawn"""
    encoded: tuple[str, ...] = ()
    """names of the tensors in its encoded file"""


def _parse(row: Any, where: str) -> Sample:
    names = [field.name for field in fields(Sample)]
    missing = [name for name in names[:9] if name not in row] if isinstance(row, dict) else names
    if missing:
        raise DataError(f"{where}: no {', '.join(missing)}; run `lofa prepare` again")
    values = {name: row[name] for name in names if name in row}
    for name in ("split", "group", "role"):
        values[name] = intern(str(row[name]))  # what many samples share is kept once
    values["encoded"] = tuple(intern(str(name)) for name in row.get("encoded", ()))
    try:
        height, width = row["size"]
        sample = Sample(**values | {"size": (int(height), int(width))})
    except (TypeError, ValueError):
        raise DataError(f"{where}: its size {row['size']!r} is no height and width; run `lofa prepare` again") from None
    check_name(sample.id, where)
    if not isinstance(sample.caption, str) or not sample.caption.strip():
        raise DataError(f"{where}: sample {sample.id!r} has no caption; give it one and run `lofa prepare` again")
    for name, words in (("split", SPLIT_NAMES), ("role", ROLES)):
        if values[name] not in words:
            raise DataError(f"{where}: {name} {values[name]!r} is none of {', '.join(words)}")
    return sample


def read_samples(set_dir: Location) -> list[Sample]:
    """The samples of a prepared set, in order.

    Raises:
        DataError: there is no such set (the message lists the sets beside it), or a line is wrong.
    """
    set_dir = locate(set_dir)
    path = set_dir / "samples.jsonl"
    if not path.is_file():
        parent = set_dir.parent
        known = [file.parent.name for file in listing(parent, "*/samples.jsonl")] if parent.is_dir() else []
        begun = " (a preparation began there and did not finish)" if (set_dir / "encoded").is_dir() else ""
        raise DataError(
            f"no prepared data set at {set_dir}{begun}: {path.name} is missing. Sets in {parent}: "
            f"{', '.join(known) or 'none'}. Make it with: lofa prepare source=<folder|csv|poses.npz|world> "
            f"data={set_dir}"
        )
    return [_parse(row, f"{path}, entry {i}") for i, row in enumerate(read_jsonl(path), 1)]


def write_samples(set_dir: Location, samples: Iterable[Sample]) -> None:
    """Writes samples.jsonl, whole or not at all."""
    set_dir = locate(set_dir)
    write_jsonl(inside(set_dir, set_dir / "samples.jsonl"), map(asdict, samples))


def encoded_path(set_dir: Location, sample_id: str) -> Place:
    """Where the encoded file of a sample lies (DataError: an id that can't be a file's name)."""
    folder = locate(set_dir) / "encoded"
    return folder / f"{check_name(sample_id, folder)}.safetensors"


@dataclass(frozen=True)
class Encoded:
    """What the backbone made of one sample."""

    latents: Tensor | None
    """(C, T', H', W') float32; None where it was not asked for"""
    conditions: Mapping[str, Tensor]
    """kind -> (n, ...): text (N, width) float32, the caption's tokens without padding; pose (T, J, 2) float32, image
    coordinates in [0, 1]"""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """what else the backbone made of the caption, each (...)"""


def prompt_of(encoded: Sequence[Encoded]) -> Condition:
    """What the backbone is steered by, of some samples."""
    extras = {name: torch.stack([one.extras[name] for one in encoded]) for name in encoded[0].extras}
    return Condition.from_rows([one.conditions[PROMPT.name] for one in encoded], extras)


def recipe(sample: Sample, stamp: str = "") -> str:
    """A digest of everything that decides what a sample's encoded file holds, beside the backbone."""
    parts = [sample.caption, sample.source, sample.frames, list(sample.size), sample.fps, sample.seed, stamp]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def write_encoded(
    set_dir: Location,
    sample: Sample,
    encoded: Encoded,
    *,
    backbone: str,
    fingerprint: str,
    dtype: torch.dtype,
    fps: float | None = None,
    stamp: str = "",
) -> Sample:
    """Writes the encoded file of `sample` and gives the sample back with the names of its tensors and its true rate.

    Latents, text and floating extras are stored in `dtype`, joints in float32.

    Raises:
        DataError: values that are not finite, also where only `dtype` can't hold them; or a symbolic link leads out of
            the set.
    """
    kinds = {CONDITIONS[name]: row for name, row in encoded.conditions.items()}
    tensors = {kind.key: kind.pack(row, dtype) for kind, row in kinds.items()}
    for name, value in encoded.extras.items():
        tensors[EXTRAS + name] = value.to(dtype) if value.is_floating_point() else value
    if encoded.latents is not None:
        tensors[LATENTS] = encoded.latents.to(dtype)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{sample.source}: its {name} holds NaN or infinity in {dtype}")
    rate = sample.fps if fps is None else fps
    metadata = {
        "format": _VERSION,
        "backbone": backbone,
        "backbone_fingerprint": fingerprint,
        "caption": sample.caption,
        "fps": repr(rate),
        "recipe": recipe(sample, stamp),
    }
    set_dir = locate(set_dir)
    save_tensors(inside(set_dir, encoded_path(set_dir, sample.id)), tensors, metadata)
    return replace(sample, fps=rate, encoded=tuple(sorted(tensors)))


def find_encoded(set_dir: Location, sample: Sample, backbone: Fingerprinted, stamp: str = "") -> Sample | None:
    """What `write_encoded` gave for the planned `sample`, if its file is there, whole and current; else None.

    Raises:
        DataError: the file was made for another backbone.
    """
    path = encoded_path(set_dir, sample.id)
    try:
        with open_tensors(path) as file:
            metadata, names = file.metadata, file.shapes
    except DataError:
        return None  # missing or damaged: it is made
    check_backbone(path, metadata, backbone)
    if metadata.get("recipe") != recipe(sample, stamp):
        return None
    return replace(sample, fps=float(metadata["fps"]), encoded=tuple(sorted(names)))


def check_backbone(path: Place, metadata: Mapping[str, str], backbone: Fingerprinted) -> None:
    """DataError naming the file where its metadata tells of another backbone."""
    found = metadata.get("backbone_fingerprint")
    if not backbone.accepts(found):
        raise DataError(
            f"{path}: made for backbone {metadata.get('backbone')!r} (fingerprint {found}), not for the one in use ("
            f"fingerprint {backbone.fingerprint}). Choose that backbone, or prepare a set of another name with "
            "data=<name>"
        )


def read_encoded(
    set_dir: Location, sample: Sample, backbone: Fingerprinted | None = None, names: Sequence[str] | None = None
) -> Encoded:
    """Reads what is encoded of a sample, or only the tensors `names`; what steers the backbone always.

    `backbone` None: a file of any backbone.

    Raises:
        DataError: the file is missing, damaged, made for another backbone, or lacks a tensor.
    """
    path = encoded_path(set_dir, sample.id)
    with open_tensors(path, "no such file, though samples.jsonl lists it; run `lofa prepare` again") as file:
        if backbone is not None:
            check_backbone(path, file.metadata, backbone)
        extras = [name for name in sample.encoded if name.startswith(EXTRAS)]
        tensors = file.read(sorted({PROMPT.key, *extras, *(sample.encoded if names is None else names)}))
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return Encoded(
        tensors.get(LATENTS),
        {name: tensors[kind.key] for name, kind in CONDITIONS.items() if kind.key in tensors},
        {name.removeprefix(EXTRAS): tensors[name] for name in extras},
    )


def values_of(
    set_dir: Location, samples: Sequence[Sample], backbone: Fingerprinted, kinds: Iterable[str]
) -> dict[str, Any]:
    """The samples' own conditions as `Predictor.predict` takes them: {"prompt": captions, "pose": joint arrays ...}.

    Raises:
        DataError: as `read_encoded`; a sample goes without one of the kinds.
    """

    def stored(sample: Sample, kind: str) -> Tensor:
        return read_encoded(set_dir, sample, backbone, [CONDITIONS[kind].key]).conditions[kind]

    return {
        CONDITIONS[name].argument: [CONDITIONS[name].own(one.caption, partial(stored, one, name)) for one in samples]
        for name in kinds
    }
