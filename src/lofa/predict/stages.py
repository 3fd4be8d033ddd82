"""The files of a predictor: `predictor.json`, from which the modules are rebuilt, and one safetensors file a part.

    predictor/predictor.json          conditions, backbone and layer table, kind of hypernetwork, constructor values
              response.safetensors    stage I:  network.*, encoder.*    (two_stage alone)
              adapter.safetensors     stage II: network.*, encoder.*    (absent after stage I)

Names are looked up in the fixed tables of `lofa.hypernets` and `lofa.conditions`; a file can name nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lofa.backbones import Backbone, BackboneConfig
from lofa.conditions import ConditionEncoder, compose, encoder_classes, find_kind
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, read_tensors, save_tensors, write_json
from lofa.hypernets import HYPERNETS, Hypernetwork, Part
from lofa.hypernets.old_names import renamed
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
    """What `predictor.json` says.

    Attributes:
        folder: where it lies
        conditions: kinds that the predictor takes, keys of `CONDITIONS`
        backbone: name of the backbone
        backbone_config: what `load_backbone` takes to load it
        fingerprint: of that backbone
        layers: names of the adapted layers
        depth: depth id of each layer
        kind: kind id of each layer
        hypernet: kind of hypernetwork, a key of `HYPERNETS`
        parts: "response" and, after stage II, "adapter" -> constructor values of network and encoders
        version: of the files
        metadata: what the writer added
    """

    folder: Path
    conditions: tuple[str, ...]
    backbone: str
    backbone_config: BackboneConfig
    fingerprint: str
    layers: tuple[str, ...]
    depth: tuple[int, ...]
    kind: tuple[int, ...]
    hypernet: str
    parts: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]
    version: int = VERSION


def _table_name(module: nn.Module, table: Mapping[str, type[nn.Module]]) -> str:
    for own in type(module).__mro__:  # sharding (FSDP2) makes a subclass
        for name, known in table.items():
            if own is known:
                return name
    raise TypeError(f"{type(module).__name__} is none of the classes a predictor may hold: {', '.join(table)}")


def _describe(part: Part, conditions: Sequence[str]) -> dict[str, Any]:
    encoders = {kind: part.encoder.part(kind) for kind in conditions}
    return {
        "network": part.network.config.values(),
        "encoders": {
            kind: {"class": _table_name(encoder, encoder_classes()), "config": encoder.config}
            for kind, encoder in encoders.items()
        },
    }


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


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
    tensors = {name: {key: _whole(value) for key, value in part.state_dict().items()} for name, part in parts.items()}
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    layers = [
        {"name": layer.name, "depth": depth, "kind": kind}
        for layer, depth, kind in zip(
            backbone.layers, backbone.depth_ids.tolist(), backbone.kind_ids.tolist(), strict=True
        )
    ]
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
                    "path": _lasting_path(backbone_path or backbone.name),
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


def _lasting_path(path: str | Path) -> str:
    """A folder by its absolute path, so that the predictor can be used from elsewhere; other names as they are."""
    return str(Path(path).resolve()) if Path(path).is_dir() else str(path)


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
    raise DataError(
        f"{path}: no {DESCRIPTION_FILE} here nor in predictor/ (it holds {found}); give a run directory of "
        "train.py that has finished, or its predictor/ folder"
    )


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
        raise DataError(
            f"{file}: version {version!r}, but this LoFA reads versions 1 to {VERSION}; use the LoFA that wrote it"
        )
    try:
        content = _current(content)
        for name in content["conditions"]:
            find_kind(name)
        backbone = content["backbone"]
        layers = backbone["layers"]
        return Description(
            folder,
            tuple(content["conditions"]),
            backbone["name"],
            BackboneConfig(backbone["name"], backbone["path"], kinds=tuple(backbone["kinds"]), dtype=backbone["dtype"]),
            backbone["fingerprint"],
            tuple(layer["name"] for layer in layers),
            tuple(layer["depth"] for layer in layers),
            tuple(layer["kind"] for layer in layers),
            content["hypernet"]["kind"],
            content["hypernet"]["parts"],
            content.get("metadata", {}),
            version,
        )
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: damaged, the entry {error} is missing or of the wrong kind; train again or take a copy"
        ) from None


def _current(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A description as this version writes it."""
    if content["version"] != 1:
        return content
    condition = content["condition"]
    parts = {
        name: {
            "network": _current_values(dict(stage["network"]["config"])),
            "encoders": {condition: stage["encoder"]},
        }
        for name, stage in content["stages"].items()
    }
    return {**content, "conditions": [condition], "hypernet": {"kind": "two_stage", "parts": parts}}


def _current_values(old: dict[str, Any]) -> dict[str, Any]:
    return quirky(old, old.pop("quirks", []))


def load_hypernet(description: Description, device: torch.device | str = "cpu") -> Hypernetwork:
    """Rebuilds the hypernetwork, frozen, in eval mode.

    Raises:
        DataError: an unknown kind, a part that has not been trained, or a file that does not fit.
    """
    kind = _kind(description)
    hypernet = kind(**{name: load_part(description, name, device) for name in kind.networks})
    return hypernet.requires_grad_(False).eval()


def _kind(description: Description) -> type[Hypernetwork]:
    if description.hypernet not in HYPERNETS:
        raise DataError(
            f"{description.folder / DESCRIPTION_FILE}: hypernetwork {description.hypernet!r} is none of "
            f"{', '.join(HYPERNETS)}"
        )
    return HYPERNETS[description.hypernet]


def load_part(description: Description, name: str, device: torch.device | str = "cpu") -> Part:
    """Rebuilds one part ("response", "adapter"), frozen, in eval mode.

    Raises:
        DataError: the part has not been trained, has an encoder of an unknown class, or its file does not fit.
    """
    networks = _kind(description).networks
    spec = description.parts.get(name)
    if spec is None or name not in networks:
        raise DataError(
            f"{description.folder}: holds {', '.join(description.parts) or 'no part'} but not {name}; "
            "run `python train.py stage=2 response=<this run>` and give that run"
        )
    file = description.folder / f"{name}.safetensors"
    part = _build(networks[name], spec, description.conditions, file)
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


def _build(network: Any, spec: Mapping[str, Any], conditions: Sequence[str], file: Path) -> Part:
    where = f"{file.parent / DESCRIPTION_FILE}: {file.stem}"
    try:
        values, encoders = spec["network"], {kind: spec["encoders"][kind] for kind in conditions}
    except (KeyError, TypeError):
        raise DataError(
            f"{where}: no network, or no encoder of each of {', '.join(conditions)}; take a whole copy"
        ) from None
    encoder = compose({kind: _build_encoder(f"{where}.{kind}", one) for kind, one in encoders.items()})
    try:
        return Part(network(network.Config(**values)), encoder)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}.network: can't be built from its config ({error})") from None


def _build_encoder(where: str, spec: Mapping[str, Any]) -> ConditionEncoder:
    classes = encoder_classes()
    try:
        name, values = spec["class"], spec["config"]
    except (KeyError, TypeError):
        raise DataError(f"{where}: the entries class and config are missing; take a whole copy") from None
    if name not in classes:
        raise DataError(f"{where}: class {name!r} is not one of {', '.join(classes)}; import one of your own first")
    try:
        return classes[name](**values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} can't be built from its config ({error})") from None
