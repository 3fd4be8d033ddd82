"""From a configuration to objects: backbone, condition encoder, hypernetworks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn

from lofa.adapters.formats import check_adapter_target
from lofa.backbones import Backbone, BackboneConfig, by_shape, known_backbones, load_backbone, read_config
from lofa.cli.problems import nearest
from lofa.conditions import CONDITIONS, ConditionEncoder, compose
from lofa.errors import ConfigError
from lofa.hypernets import HEADS, HYPERNETS, Hypernetwork, Part, compile_blocks, use_attention
from lofa.interop.quirks import quirky
from lofa.predict import Predictor
from lofa.workflows.devices import ACCELERATORS, pick_device, pick_dtype
from lofa.workflows.runs import find_run

__all__ = [
    "build_encoder",
    "build_hypernet",
    "check_conditions",
    "check_export",
    "hypernet_kind",
    "load_predictor",
    "open_backbone",
    "place_training",
    "task_conditions",
]

Made = TypeVar("Made", bound=nn.Module)


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
    accelerator, chosen = ACCELERATORS[device.type], config.trainer.accelerator
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


def check_export(config: Any) -> torch.dtype | None:
    """Refuses a wrong `dtype`, `rank` or `format` and an `out` that is not to be replaced; gives the precision.

    Raises:
        ConfigError, AdapterFormatError, TargetError: what is wrong.
    """
    dtype = pick_dtype(config.dtype)
    if config.rank is not None and config.rank < 1:
        raise ConfigError(f"rank={config.rank}: an adapter has a rank of at least 1; leave it out to keep the rank")
    check_adapter_target(config.out, config.format, config.overwrite)
    return dtype


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
    chosen: BackboneConfig = OmegaConf.to_object(config)
    if chosen.name not in known_backbones() or read_config(chosen.name).path != chosen.path:
        folder = Path(chosen.path)
        chosen = replace(chosen, name=str(folder.resolve()) if folder.is_dir() else chosen.path)
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
