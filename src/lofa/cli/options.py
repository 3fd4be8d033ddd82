"""Options as the configuration has them: the schema of a command, its keys in words, and objects of what was given."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from lofa.errors import ConfigError
from lofa.options import wanted

__all__ = ["Option", "build", "check_values", "list_options", "schema"]


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


def check_values(config: DictConfig, prefix: str = "") -> None:
    """Refuses values outside the limits of their options, and NaN or infinity anywhere (ConfigError)."""
    kind = OmegaConf.get_type(config)
    known = {item.name: item.metadata for item in fields(kind)} if isinstance(kind, type) and is_dataclass(kind) else {}
    for name in config:
        if OmegaConf.is_missing(config, name):
            continue
        key, value = f"{prefix}{name}", config[name]
        about: Any = known.get(str(name), {})
        if isinstance(value, DictConfig):
            check_values(value, f"{key}.")
            continue
        for entry in value if OmegaConf.is_list(value) else [value]:
            words = wanted(entry, about)
            if words:
                raise ConfigError(f"{key}={value}: must be {words}")


def build(config: DictConfig, name: str) -> Any:
    """The object of the options class that stands in the configuration under `name`.

    Raises:
        ConfigError: values that its class refuses, by their whole key.
    """
    try:
        return OmegaConf.to_object(config[name])
    except ConfigError as error:
        raise ConfigError(f"{name}.{error}") from None
