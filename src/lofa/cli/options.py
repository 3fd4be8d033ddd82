"""Options as the configuration has them: the schema of a command, its keys in words, and objects of what was given."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from lofa.errors import ConfigError

__all__ = ["Option", "build", "list_options", "schema"]


@dataclass(frozen=True)
class Option:
    """One key of a command, for its help page and for the quoting of text.

    name: dotted key. kind: "text", "int", "list of str", ... help: one line. verbatim: the value is taken character by
    character.
    """

    name: str
    kind: str
    help: str
    verbatim: bool


def list_options(options: type, prefix: str = "") -> Iterator[Option]:
    """Every key of a class of options, nested ones dotted, in the order of the source.

    A mapping without help stands for an object: its keys are the arguments of the class that it names.
    """
    hints = get_type_hints(options)
    for item in fields(options):
        name, hint = f"{prefix}{item.name}", hints[item.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from list_options(hint, f"{name}.")
        else:
            verbatim = item.metadata.get("verbatim", False)
            yield Option(name, "text" if verbatim else _kind(hint), item.metadata.get("help", ""), verbatim)


def _kind(hint: object) -> str:
    """A type in words: "int", "list of str"."""
    arguments = [part for part in get_args(hint) if part not in (NoneType, Ellipsis)]
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_kind, arguments))
    if get_origin(hint) in (list, tuple):
        return f"list of {_kind(arguments[0])}"
    if get_origin(hint) is dict:
        return "mapping"
    return hint.__name__ if isinstance(hint, type) else "value"


def schema(options: type) -> DictConfig:
    """A class of options as the schema of a configuration that can still be filled: OmegaConf locks frozen classes."""
    node: DictConfig = OmegaConf.structured(options)
    _unlock(node)
    return node


def _unlock(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    for name, hint in get_type_hints(OmegaConf.get_type(node)).items():
        if is_dataclass(hint):
            if OmegaConf.is_missing(node, name):
                node[name] = OmegaConf.structured(hint)
            _unlock(node[name])


def build(config: DictConfig, prefix: str = "") -> Any:
    """The object of a configuration, its parts first.

    Raises:
        ConfigError: a value that a class refuses, or NaN or infinity among the arguments of others, by its whole key.
    """
    for name, node in config.items():
        if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
            build(node, f"{prefix}{name}.")
        elif isinstance(node, DictConfig):
            _check_finite(f"{prefix}{name}", node)
    try:
        return OmegaConf.to_object(config)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


def _check_finite(key: str, value: Any) -> None:
    if isinstance(value, DictConfig):
        for name, entry in value.items():
            _check_finite(f"{key}.{name}", entry)
    for entry in value if isinstance(value, ListConfig) else [value]:
        if isinstance(entry, float) and not math.isfinite(entry):
            raise ConfigError(f"{key}={value}: must be a finite number")
