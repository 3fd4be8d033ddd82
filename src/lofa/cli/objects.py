"""From a configuration to objects: backbone, condition encoder, hypernetworks."""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from lofa.adapters import Adapter
from lofa.backbones import Backbone, BackboneConfig, by_shape, known_backbones, load_backbone, read_config
from lofa.cli.options import build
from lofa.cli.problems import nearest
from lofa.cli.runs import find_run
from lofa.conditions import CONDITIONS, ConditionEncoder, compose
from lofa.errors import BackboneError, ConfigError
from lofa.hypernets import HEADS, HYPERNETS, Hypernetwork, Part, compile_blocks, use_attention
from lofa.interop.quirks import quirky
from lofa.predict import Predictor

__all__ = [
    "build_encoder",
    "build_hypernet",
    "check_conditions",
    "check_fingerprint",
    "check_layers",
    "hypernet_kind",
    "load_predictor",
    "open_backbone",
    "pick_device",
    "pick_dtype",
    "place_training",
    "task_conditions",
]

Made = TypeVar("Made", bound=nn.Module)

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "gpu"}
"""Kind of device -> Lightning's word for it."""


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in _ACCELERATORS:
            raise RuntimeError(f"no model runs on {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name}: {str(error).splitlines()[0]}; give cpu, cuda, cuda:<number> or auto"
        ) from None
    return device


def place_training(config: Any) -> Any:
    """The configuration with `trainer.accelerator` and `strategy.devices` as `device` says; "auto" leaves them.

    A kind of device ("cuda") leaves the number to `strategy.devices`, one of several ("cuda:1") is the only one.

    Raises:
        ConfigError: no such device here, no such number of them, or `device` says another thing than the two.
    """
    devices = config.strategy.devices
    numbers = list(devices) if OmegaConf.is_list(devices) else [devices]
    if devices != "auto" and not (numbers and all(type(number) is int for number in numbers)):
        raise ConfigError(f"strategy.devices={devices}: give how many, a list of their numbers, or auto")
    if config.device == "auto":
        return config
    device = pick_device(config.device)
    accelerator, chosen = _ACCELERATORS[device.type], config.trainer.accelerator
    if chosen not in ("auto", accelerator, device.type):
        raise ConfigError(
            f"device={config.device} and trainer.accelerator={chosen} contradict each other: leave one of them out, "
            "or give device=auto"
        )
    if device.type != "cpu" and device.index is not None:
        if devices not in (1, "auto", [device.index]):
            raise ConfigError(
                f"device={config.device} is one device, strategy.devices={devices} are others: for several give "
                f"device={device.type} or device=auto"
            )
        devices = [device.index]
    return OmegaConf.merge(config, {"trainer": {"accelerator": accelerator}, "strategy": {"devices": devices}})


def pick_dtype(name: str | None) -> torch.dtype | None:
    """The floating-point type of that name, None for None (ConfigError for another name)."""
    types = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float8_e4m3fn": torch.float8_e4m3fn,
    }
    if name is not None and name not in types:
        raise ConfigError(f"dtype={name}: {nearest(name, types)}")
    return None if name is None else types[name]


def check_layers(given: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter, `given` as key=value, of other layers than the backbone's (BackboneError)."""
    try:
        backbone.adapter_batch(adapter)
    except BackboneError as error:
        raise BackboneError(f"{given}: {error}") from None


def check_fingerprint(path: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter, read from `path`, whose header names another backbone (BackboneError)."""
    made_for = adapter.metadata.get("backbone_fingerprint")
    if made_for is not None and not backbone.accepts(made_for):
        raise BackboneError(
            f"{path}: made for the backbone {adapter.metadata.get('backbone')!r} ({made_for}), not for "
            f"{backbone.name!r} ({backbone.fingerprint}); give the right one by backbone=<name or folder>"
        )


def load_predictor(config: Any) -> Predictor:
    """The predictor of the keys `predictor` (none: the one finished last in `runs`), `model` and `device`."""
    device = pick_device(config.device)
    run = find_run(config.runs, {"stage": 2}) if config.predictor is None else config.predictor
    if config.predictor is None:
        print(f"predictor: {run} (the one finished last; choose another with predictor=<run>)")
    backbone = None if config.model is None else load_backbone(config.model, device)
    return Predictor.load(run, device, backbone)


def open_backbone(config: Any, device: torch.device | str) -> Backbone:
    """The backbone of the group `backbone`.

    With a path of one's own it goes by that path, under which `load_backbone` finds it again later.
    """
    chosen: BackboneConfig = build(BackboneConfig, config)
    if chosen.name not in known_backbones() or read_config(chosen.name).path != chosen.path:
        folder = Path(chosen.path)
        chosen = build(
            BackboneConfig, OmegaConf.merge(config, {"name": str(folder.resolve()) if folder.is_dir() else chosen.path})
        )
    return load_backbone(chosen, device=device)


def build_encoder(task: Any, backbone: Backbone, rows: Mapping[str, Tensor]) -> ConditionEncoder:
    """The encoder of a task's conditions, `rows` being one of each as the data have it.

    Raises:
        ConfigError: an unknown constructor value, or encoders that don't fit each other.
    """
    settings: Any = OmegaConf.to_container(task.conditions, resolve=True)
    parts = {}
    for name, values in settings.items():
        where, kind = f"task.conditions.{name}", CONDITIONS[name]
        given, values = kind.facts(backbone, rows[name]), dict(values or {})
        encoder = _own_class(where, values.pop("_target_")) if "_target_" in values else kind.encoder
        other = next((key for key, fact in given.items() if values.get(key, fact) != fact), None)
        if other is not None:
            raise ConfigError(f"{where}.{other}={values[other]}: it is {given[other]} here; leave it out")
        parts[name] = _construct(encoder, given | values, where)
    try:
        return compose(parts)
    except ValueError as error:
        raise ConfigError(f"task.conditions: {error}") from None


def _own_class(where: str, target: str) -> type[ConditionEncoder]:
    try:
        found = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{where}._target_={target}: {str(error).strip().splitlines()[0]}") from None
    if not (isinstance(found, type) and issubclass(found, ConditionEncoder)):
        raise ConfigError(f"{where}._target_={target}: no subclass of lofa.conditions.ConditionEncoder")
    return found


def task_conditions(task: Any) -> list[str]:
    """Kinds of condition that a task names (ConfigError: none, or an unknown one)."""
    unknown = next((name for name in task.conditions if name not in CONDITIONS), None)
    if unknown is not None:
        raise ConfigError(f"task.conditions: no kind of condition {unknown!r}; {nearest(unknown, CONDITIONS)}")
    if not task.conditions:
        raise ConfigError(f"task.conditions: task={task.name} names none; one or several of {', '.join(CONDITIONS)}")
    return list(task.conditions)


def check_conditions(given: str, conditions: Sequence[str], task: Any) -> None:
    """Refuses a predictor or stage, `given` as key=value, of other conditions than the task's (ConfigError)."""
    if set(conditions) != set(task.conditions):
        found, wanted = (", ".join(one) for one in (conditions, task.conditions))
        raise ConfigError(f"{given}: takes {found}, but task={task.name} gives {wanted}")


def hypernet_kind(hypernet: Any) -> type[Hypernetwork]:
    """The kind of hypernetwork that is asked for (ConfigError for an unknown one)."""
    if hypernet.kind not in HYPERNETS:
        raise ConfigError(f"hypernet.kind={hypernet.kind}: {nearest(hypernet.kind, HYPERNETS)}")
    return HYPERNETS[hypernet.kind]


def build_hypernet(
    hypernet: Any, backbone: Backbone, stage: int, encoder: ConditionEncoder, earlier: Mapping[str, Part]
) -> Hypernetwork:
    """An untrained hypernetwork for a stage of training, around the parts that earlier stages trained.

    Raises:
        ConfigError: sizes that don't fit each other or the backbone.
    """
    kind = hypernet_kind(hypernet)
    values = OmegaConf.to_container(hypernet, resolve=True)
    assert isinstance(values, dict)
    facts: dict[str, Any] = {
        "shapes": tuple(by_shape(backbone.layers)),
        "num_depths": backbone.num_depths,
        "num_kinds": len(backbone.kinds),
        "context_width": encoder.width,
    }
    if hypernet.head not in HEADS:
        raise ConfigError(f"hypernet.head={hypernet.head}: {nearest(hypernet.head, HEADS)}")
    try:
        values = quirky(values, hypernet.quirks)
    except ValueError as error:
        raise ConfigError(f"hypernet.quirks: {error}") from None
    try:
        built = kind.fresh(stage, values | facts, encoder, earlier)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hypernet: {kind.__name__} can't be built ({error})") from None
    try:
        use_attention(built, hypernet.attention)
    except ValueError as error:
        raise ConfigError(f"hypernet.attention: {error}") from None
    except ImportError:
        raise ConfigError(
            'hypernet.attention=flash_attn: flash-attn is not installed; pip install "lofa[flash]", or choose sdpa'
        ) from None
    if hypernet.compile:
        compile_blocks(built)
    return built


def _construct(kind: type[Made], values: Mapping[str, Any], where: str) -> Made:
    known = signature(kind).parameters
    unknown = next((key for key in values if key not in known), None)
    if unknown is not None:
        raise ConfigError(f"{where}.{unknown}: {kind.__name__} has no such value; {nearest(unknown, known)}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {kind.__name__} can't be built ({error})") from None
