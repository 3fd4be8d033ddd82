"""From values to networks: the encoder of a task's conditions, and an untrained hypernetwork."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from lofa.backbones import Backbone, by_shape
from lofa.conditions import CONDITIONS, ConditionEncoder, compose
from lofa.errors import ConfigError, nearest
from lofa.hypernets import HEADS, HYPERNETS, HypernetOptions, Hypernetwork, Part, compile_blocks, use_attention
from lofa.interop.quirks import quirky
from lofa.predict import load_part, read_description

__all__ = ["build_encoder", "build_hypernet", "check_kinds", "hypernet_kind", "load_earlier"]

Made = TypeVar("Made", bound=nn.Module)


def build_encoder(
    conditions: Mapping[str, Mapping[str, Any] | None],
    backbone: Backbone,
    rows: Mapping[str, Tensor],
    classes: Mapping[str, type[ConditionEncoder]] | None = None,
) -> ConditionEncoder:
    """The encoder of a task's conditions.

    Args:
        conditions: kind -> constructor values of its encoder
        backbone: whose prompts it may read
        rows: one of each condition as the data have it
        classes: encoders of one's own, by kind

    Raises:
        ConfigError: an unknown constructor value, or encoders that don't fit each other.
    """
    parts = {}
    for name, given in conditions.items():
        where, kind, values = f"task.conditions.{name}", CONDITIONS[name], dict(given or {})
        facts, encoder = kind.facts(backbone, rows[name]), (classes or {}).get(name, kind.encoder)
        other = next((key for key, fact in facts.items() if values.get(key, fact) != fact), None)
        if other is not None:
            raise ConfigError(f"{where}.{other}={values[other]}: it is {facts[other]} here; leave it out")
        parts[name] = _construct(encoder, facts | values, where)
    try:
        return compose(parts)
    except ValueError as error:
        raise ConfigError(f"task.conditions: {error}") from None


def check_kinds(task: str, conditions: Sequence[str]) -> None:
    """Refuses a task, named `task`, of no condition or of an unknown kind (ConfigError)."""
    unknown = next((name for name in conditions if name not in CONDITIONS), None)
    if unknown is not None:
        raise ConfigError(f"task.conditions: no kind of condition {unknown!r}; {nearest(unknown, CONDITIONS)}")
    if not conditions:
        raise ConfigError(f"task.conditions: task={task} names none; one or several of {', '.join(CONDITIONS)}")


def hypernet_kind(options: HypernetOptions) -> type[Hypernetwork]:
    """The kind of hypernetwork that is asked for (ConfigError for an unknown kind or head)."""
    for key, name, known in (("kind", options.kind, list(HYPERNETS)), ("head", options.head, list(HEADS))):
        if name not in known:
            raise ConfigError(f"hypernet.{key}={name}: {nearest(name, known)}")
    return HYPERNETS[options.kind]


def load_earlier(
    run: str | Path, names: Sequence[str], backbone: Backbone, rows: Mapping[str, Tensor]
) -> dict[str, Part]:
    """Parts of the hypernetwork of an earlier stage's run, trained for this backbone and these conditions.

    Args:
        run: its directory
        names: of the parts
        backbone: the one trained for
        rows: one of each condition as the data have it

    Raises:
        ConfigError: they were trained for others.
        DataError: no such run.
    """
    description = read_description(run)
    if not backbone.accepts(description.fingerprint):
        raise ConfigError(
            f"response={run}: trained for backbone {description.backbone.name!r} ({description.fingerprint}), "
            f"not for {backbone.name!r} ({backbone.fingerprint})"
        )
    if set(description.conditions) != set(rows):
        found, wanted = (", ".join(one) for one in (description.conditions, rows))
        raise ConfigError(f"response={run}: takes {found}, but the task gives {wanted}")
    parts = {name: load_part(description, name) for name in names}
    for part, kind in product(parts.values(), rows):
        config = part.encoder.part(kind).config
        for key, fact in CONDITIONS[kind].facts(backbone, rows[kind]).items():
            if config.get(key, fact) != fact:
                raise ConfigError(f"response={run}: trained for {kind} of {key}={config[key]}, the data have {fact}")
    return parts


def build_hypernet(
    options: HypernetOptions, backbone: Backbone, stage: int, encoder: ConditionEncoder, earlier: Mapping[str, Part]
) -> Hypernetwork:
    """An untrained hypernetwork for a stage of training, around the parts that earlier stages trained.

    Raises:
        ConfigError: sizes that don't fit each other or the backbone.
    """
    kind = hypernet_kind(options)
    facts: dict[str, Any] = {
        "shapes": tuple(by_shape(backbone.layers)),
        "num_depths": backbone.num_depths,
        "num_kinds": len(backbone.kinds),
        "context_width": encoder.width,
    }
    try:
        values = quirky(asdict(options), options.quirks)
    except ValueError as error:
        raise ConfigError(f"hypernet.quirks: {error}") from None
    try:
        built = kind.fresh(stage, values | facts, encoder, earlier)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hypernet: {kind.__name__} can't be built ({error})") from None
    try:
        use_attention(built, options.attention)
    except ValueError as error:
        raise ConfigError(f"hypernet.attention: {error}") from None
    except ImportError:
        raise ConfigError(
            'hypernet.attention=flash_attn: flash-attn is not installed; pip install "lofa[flash]", or choose sdpa'
        ) from None
    if options.compile:
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
