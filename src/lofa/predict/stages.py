"""The files of a predictor: `predictor.json`, from which the modules are rebuilt, and one safetensors file a part.

    predictor/predictor.json          conditions, backbone and layer table, kind of hypernetwork, constructor values
              response.safetensors    stage I:  network.*, encoder.*    (two_stage alone)
              adapter.safetensors     stage II: network.*, encoder.*    (absent after stage I)

Names are looked up in the fixed tables of `lofa.hypernets` and `lofa.conditions`; a file can name nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lofa.backbones import Backbone, BackboneConfig
from lofa.conditions import compose, encoder_classes, find_kind
from lofa.errors import DataError, LofaError
from lofa.files import atomic_write, read_json, read_tensors, save_tensors, write_json
from lofa.hypernets import HYPERNETS, Hypernetwork, Part
from lofa.hypernets.old_names import renamed
from lofa.hypernets.parts import member
from lofa.interop.quirks import quirky
from lofa.targets import Kind, holds_only

__all__ = [
    "PREDICTOR",
    "Description",
    "find_predictor",
    "load_hypernet",
    "load_part",
    "read_description",
    "save_predictor",
]

FORMAT = "lofa-predictor"
VERSION = 2
DESCRIPTION_FILE = "predictor.json"


def _is_predictor(path: Path) -> bool:
    try:
        description = _current(read_json(path / DESCRIPTION_FILE))
        parts = description["hypernet"]["parts"] if description.get("format") == FORMAT else []
    except (DataError, AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(parts) and holds_only(path, [DESCRIPTION_FILE, *(f"{name}.safetensors" for name in parts)])


PREDICTOR = Kind("the folder of a predictor", _is_predictor)
"""The folder that `save_predictor` writes, and replaces."""


@dataclass(frozen=True)
class Description:
    """What `predictor.json` says."""

    folder: Path
    """where it lies"""
    conditions: tuple[str, ...]
    """kinds that the predictor takes, keys of `CONDITIONS`"""
    backbone: BackboneConfig
    """what `load_backbone` takes to load the one trained for"""
    fingerprint: str
    """of that backbone"""
    layers: Mapping[str, tuple[int, int]]
    """name of each adapted layer -> its ids of depth and kind"""
    hypernet: str
    """kind of hypernetwork, a key of `HYPERNETS`"""
    parts: Mapping[str, Mapping[str, Any]]
    """"response" and, after stage II, "adapter" -> constructor values of network and encoders"""
    version: int = VERSION
    """of the files"""


def _table_name(module: nn.Module, table: Mapping[str, type[nn.Module]]) -> str:
    for own in type(module).__mro__:  # sharding (FSDP2) makes a subclass
        for name, known in table.items():
            if own is known:
                return name
    raise TypeError(f"{type(module).__name__} is none of the classes a predictor may hold: {', '.join(table)}")


def _describe(part: Part, conditions: Sequence[str]) -> dict[str, Any]:
    encoders = {kind: part.encoder.part(kind) for kind in conditions}
    return {
        "network": asdict(part.network.config),
        "encoders": {
            kind: {"class": _table_name(encoder, encoder_classes()), "config": encoder.config}
            for kind, encoder in encoders.items()
        },
    }


def save_predictor(
    directory: str | Path,
    backbone: Backbone,
    *,
    conditions: Sequence[str],
    hypernet: Hypernetwork,
    backbone_path: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a predictor folder, whole or not at all; one that stands there is replaced, no other folder.

    Where several processes train, all of them call this (parameters may be sharded) and the first one writes.

    Args:
        directory: usually `<run>/predictor`
        backbone: the one trained for
        conditions: kinds that the encoders of all parts read
        hypernet: a member of `HYPERNETS`
        backbone_path: the folder, shipped name or hub id the backbone was loaded from; None: its name
        metadata: strings to keep: run name, data set ...
    """
    parts = hypernet.parts()
    for part in parts.values():
        _table_name(part.network, hypernet.networks)
    tensors = {
        name: {key: v.full_tensor() if isinstance(v, DTensor) else v for key, v in part.state_dict().items()}
        for name, part in parts.items()
    }
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    ids = zip(backbone.layers, backbone.depth_ids.tolist(), backbone.kind_ids.tolist(), strict=True)
    layers = [{"name": layer.name, "depth": depth, "kind": kind} for layer, depth, kind in ids]
    path = backbone_path or backbone.name
    with atomic_write(directory, PREDICTOR) as folder:
        folder.mkdir()
        for name, values in tensors.items():
            save_tensors(folder / f"{name}.safetensors", values)
        write_json(
            folder / DESCRIPTION_FILE,
            {
                "format": FORMAT,
                "version": VERSION,
                "conditions": list(conditions),
                "backbone": {
                    "name": backbone.name,
                    "path": str(Path(path).resolve() if Path(path).is_dir() else path),  # to be used from elsewhere
                    "kinds": list(backbone.kinds),
                    "dtype": str(backbone.dtype).removeprefix("torch."),
                    "fingerprint": backbone.fingerprint,
                    "layers": layers,
                },
                "hypernet": {
                    "kind": _table_name(hypernet, HYPERNETS),
                    "parts": {name: _describe(part, conditions) for name, part in parts.items()},
                },
                "metadata": dict(metadata or {}),
            },
        )


def find_predictor(path: str | Path) -> Path:
    """The folder with `predictor.json`: `path` itself or its subfolder `predictor`.

    Raises:
        DataError: neither holds one.
    """
    path = Path(path)
    for folder in (path, path / "predictor"):
        if (folder / DESCRIPTION_FILE).is_file():
            return folder
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give a run directory of train.py or its predictor/ folder")
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise DataError(f"{path}: no {DESCRIPTION_FILE} here nor in predictor/ (it holds {found}); has the run finished?")


def read_description(path: str | Path) -> Description:
    """Reads `predictor.json` of a run or predictor folder.

    Raises:
        DataError: it is missing, damaged, or of a newer version.
    """
    folder = find_predictor(path)
    file = folder / DESCRIPTION_FILE
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{file}: not the description of a predictor (its format entry is not {FORMAT!r})")
    version = content.get("version")
    if version not in (1, VERSION):
        raise DataError(f"{file}: version {version!r}, but this LoFA reads 1 to {VERSION}; use the LoFA that wrote it")
    try:
        content = _current(content)
        backbone, kind = content["backbone"], content["hypernet"]["kind"]
        member(HYPERNETS, "hypernetwork", kind)
        return Description(
            folder,
            tuple(find_kind(name).name for name in content["conditions"]),
            BackboneConfig(backbone["name"], backbone["path"], kinds=tuple(backbone["kinds"]), dtype=backbone["dtype"]),
            backbone["fingerprint"],
            {layer["name"]: (layer["depth"], layer["kind"]) for layer in backbone["layers"]},
            kind,
            content["hypernet"]["parts"],
            version,
        )
    except (LofaError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"the entry {error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{file}: damaged or of another LoFA ({what}); take a whole copy or train again") from None


def _current(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A description as this version writes it."""
    if content["version"] != 1:
        return content
    condition, parts = content["condition"], {}
    for name, stage in content["stages"].items():
        values = dict(stage["network"]["config"])
        network = quirky(values, values.pop("quirks", []))
        parts[name] = {"network": network, "encoders": {condition: stage["encoder"]}}
    return {**content, "conditions": [condition], "hypernet": {"kind": "two_stage", "parts": parts}}


def load_hypernet(description: Description, device: torch.device | str = "cpu") -> Hypernetwork:
    """Rebuilds the hypernetwork, frozen, in eval mode; DataError as `load_part`."""
    kind = HYPERNETS[description.hypernet]
    hypernet = kind(**{name: load_part(description, name, device) for name in kind.networks})
    return hypernet.requires_grad_(False).eval()


def load_part(description: Description, name: str, device: torch.device | str = "cpu") -> Part:
    """Rebuilds one part ("response", "adapter"), frozen, in eval mode.

    Raises:
        DataError: the part has not been trained, has an encoder of an unknown class, or its file does not fit.
    """
    file = description.folder / f"{name}.safetensors"
    if name not in description.parts:
        raise DataError(
            f"{description.folder}: holds {', '.join(description.parts) or 'no part'} but not {name}; "
            "run `python train.py stage=2 response=<this run>` and give that run"
        )
    try:
        part = _build(HYPERNETS[description.hypernet].networks[name], description, description.parts[name])
    except (LofaError, KeyError, TypeError, ValueError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{description.folder / DESCRIPTION_FILE}: {name} can't be built ({what})") from None
    state: Mapping[str, Tensor] = read_tensors(file)
    if description.version == 1:
        state = renamed(state)
    bad = [key for key, value in state.items() if not value.isfinite().all()]
    if bad:
        raise DataError(f"{file}: {bad[0]} holds NaN or infinity; the training diverged, train again at a lower rate")
    try:
        part.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{file}: does not fit {DESCRIPTION_FILE} beside it ({error})") from None
    return part.requires_grad_(False).eval().to(device)


def _build(network: Any, description: Description, spec: Mapping[str, Any]) -> Part:
    classes, encoders = encoder_classes(), {}
    for kind in description.conditions:
        name, values = spec["encoders"][kind]["class"], spec["encoders"][kind]["config"]
        if name not in classes:
            raise DataError(f"{kind}: class {name!r} is not one of {', '.join(classes)}; import one of your own first")
        encoders[kind] = classes[name](**values)
    return Part(network(network.Config(**spec["network"])), compose(encoders))
