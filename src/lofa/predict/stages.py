"""The files of a predictor: `predictor.json`, from which the modules are rebuilt, and one safetensors file a stage.

    predictor/predictor.json          backbone and layer table, class and constructor values of every module
              response.safetensors    stage I:  network.*, encoder.*
              adapter.safetensors     stage II: network.*, encoder.*    (absent after stage I)

Class names are looked up in the fixed tables of `lofa.hypernets` and `lofa.conditions`; a file can name nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lofa.backbones import Backbone, BackboneConfig
from lofa.conditions import ConditionEncoder, compose, encoder_classes, find_kind
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, read_tensors, save_tensors, write_json
from lofa.hypernets import NETWORKS
from lofa.interop.quirks import add_quirks
from lofa.targets import Kind, holds_only

__all__ = [
    "PREDICTOR",
    "Description",
    "Stage",
    "find_predictor",
    "load_response",
    "load_stage",
    "read_description",
    "save_predictor",
]

Made = TypeVar("Made", bound=nn.Module)

FORMAT = "lofa-predictor"
VERSION = 2
DESCRIPTION_FILE = "predictor.json"


def _is_predictor(path: Path) -> bool:
    try:
        description = read_json(path / DESCRIPTION_FILE)
        stages = description["stages"] if description.get("format") == FORMAT else []
    except (DataError, AttributeError, KeyError):
        return False
    return bool(stages) and holds_only(path, [DESCRIPTION_FILE, *(f"{name}.safetensors" for name in stages)])


PREDICTOR = Kind("the folder of a predictor", _is_predictor)
"""The folder that `save_predictor` writes, and replaces."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A hypernetwork and the condition encoder trained with it."""

    network: nn.Module
    encoder: ConditionEncoder

    def modules(self) -> dict[str, nn.Module]:
        """Both by the names that files use."""
        return {"network": self.network, "encoder": self.encoder}


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
        stages: "response" and, after stage II, "adapter" -> file, class names, constructor values
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
    stages: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]


def _table_name(module: nn.Module, table: Mapping[str, type[nn.Module]]) -> str:
    for own in type(module).__mro__:  # sharding (FSDP2) makes a subclass
        for name, known in table.items():
            if own is known:
                return name
    raise TypeError(f"{type(module).__name__} is none of the classes a predictor may hold: {', '.join(table)}")


def _describe(stage: Stage, file: str, conditions: Sequence[str]) -> dict[str, Any]:
    encoders = {kind: stage.encoder.part(kind) for kind in conditions}
    return {
        "file": file,
        "network": {"class": _table_name(stage.network, NETWORKS), "config": stage.network.config},
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
    response: Stage,
    adapter: Stage | None = None,
    backbone_path: str | Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a predictor folder, whole or not at all; one that stands there is replaced, no other folder.

    Where several processes train, all of them call this (parameters may be sharded) and the first one writes.

    Args:
        directory: usually `<run>/predictor`
        backbone: the one trained for
        conditions: kinds that the encoders of both stages read
        response: stage I
        adapter: stage II, if it has been trained
        backbone_path: the folder, shipped name or hub id the backbone was loaded from; None: its name
        metadata: strings to keep: run name, data set ...
    """
    stages = {"response": response} | ({"adapter": adapter} if adapter else {})
    tensors = {
        name: {
            f"{part}.{key}": _whole(value)
            for part, module in stage.modules().items()
            for key, value in module.state_dict().items()
        }
        for name, stage in stages.items()
    }
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
                "stages": {name: _describe(stage, f"{name}.safetensors", conditions) for name, stage in stages.items()},
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
    if content.get("version") not in (1, VERSION):
        raise DataError(
            f"{file}: version {content.get('version')!r}, but this LoFA reads versions up to {VERSION}; "
            "use the LoFA that wrote it"
        )
    try:
        if content["version"] == 1:
            _take_version_1(content)
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
            content["stages"],
            content.get("metadata", {}),
        )
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: damaged, the entry {error} is missing or of the wrong kind; train again or take a copy"
        ) from None


def _take_version_1(content: dict[str, Any]) -> None:
    """Makes a description of version 1, with one condition and its encoder, one of this version."""
    content["conditions"] = [content.pop("condition")]
    for spec in content["stages"].values():
        spec["encoders"] = {content["conditions"][0]: spec.pop("encoder")}


def load_stage(description: Description, name: str, device: torch.device | str = "cpu") -> Stage:
    """Rebuilds stage "response" or "adapter", frozen, in eval mode.

    Raises:
        DataError: the stage has not been trained, names an unknown class, or its file does not fit.
    """
    spec = description.stages.get(name)
    if spec is None:
        raise DataError(
            f"{description.folder}: holds {', '.join(description.stages) or 'no stage'} but not {name}; "
            "run `python train.py stage=2 response=<this run>` and give that run"
        )
    file = description.folder / f"{name}.safetensors"
    stage = Stage(_build(spec, "network", NETWORKS, file), _build_encoder(spec, description.conditions, file))
    tensors = read_tensors(file)
    for part, module in stage.modules().items():
        state = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        bad = [key for key, value in state.items() if not value.isfinite().all()]
        if bad:
            raise DataError(
                f"{file}: {part}.{bad[0]} holds NaN or infinity; the training diverged, train again at a lower rate"
            )
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(f"{file}: does not fit {DESCRIPTION_FILE} beside it ({error})") from None
        module.requires_grad_(False).eval().to(device)
    return stage


def _build(spec: Mapping[str, Any], part: str, table: Mapping[str, type[Made]], file: Path) -> Made:
    where = f"{file.parent / DESCRIPTION_FILE}: {file.stem}.{part}"
    try:
        name, config = spec[part]["class"], dict(spec[part]["config"])
    except (KeyError, TypeError):
        raise DataError(f"{where}: the entries class and config are missing; take a whole copy") from None
    if name not in table:
        raise DataError(f"{where}: class {name!r} is not one of {', '.join(table)}; import one of your own first")
    try:
        quirks = config.pop("quirks", [])
        module = table[name](**config)
        if quirks:
            add_quirks(module, quirks)
        return module
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} can't be built from its config ({error})") from None


def _build_encoder(spec: Mapping[str, Any], conditions: Sequence[str], file: Path) -> ConditionEncoder:
    try:
        parts = {kind: spec["encoders"][kind] for kind in conditions}
    except (KeyError, TypeError):
        found = f"{file.parent / DESCRIPTION_FILE}: {file.stem}.encoders"
        raise DataError(f"{found}: not one of each of {', '.join(conditions)}; take a whole copy") from None
    return compose({kind: _build(parts, kind, encoder_classes(), file) for kind in parts})


def load_response(path: str | Path, device: torch.device | str = "cpu") -> tuple[Stage, Description]:
    """Stage I of a run, frozen, for stage II to read.

    Raises:
        DataError: no stage-I run there.
    """
    description = read_description(path)
    return load_stage(description, "response", device), description
