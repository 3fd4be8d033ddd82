"""Parts: the objects that the configuration names by `_target_`, bound to their arguments before anything is opened."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hydra.core.override_parser.types import Override
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lofa.cli.problems import first_line
from lofa.errors import ConfigError, nearest

__all__ = ["Blueprint", "drop_leftovers"]

Made = TypeVar("Made")
_TARGET = "_target_"


@dataclass(frozen=True)
class Blueprint:
    """A class with arguments, as the configuration has them, and what the program adds.

    key: where it stands. settings: the node. positional: how many arguments the program gives by place. added: the
    names of those that it gives by name.
    """

    key: str
    settings: Mapping[str, Any]
    positional: int = 0
    added: tuple[str, ...] = ()

    def check(self) -> None:
        """Asks whether the class is there and takes the arguments, also of what stands inside; nothing is made.

        Raises:
            ConfigError: naming key, class and what it takes.
        """
        if not isinstance(self.settings, Mapping) or _TARGET not in self.settings:
            raise ConfigError(
                f"{self.key}={self.settings}: names no class; give +{self.key}.{_TARGET}=<module>.<class>"
            )
        for key, node in _nested(self.key, self.settings):
            if key == self.key:
                _bind(key, node, self.positional, self.added)
            else:
                _bind(key, node)

    def make(self, kind: type[Made], *args: object, **kwargs: object) -> Made:
        """The object.

        Raises:
            ConfigError: the class refuses a value, or gives another thing than a `kind`.
        """
        try:
            made = self.partial()(*args, **kwargs)
        except Exception as error:  # whatever a class raises that is given wrong values
            raise ConfigError(f"{self.key}: {first_line(error)}") from error
        if not isinstance(made, kind):
            raise ConfigError(f"{self.key}: gives a {type(made).__name__}, where a {kind.__name__} is needed")
        return made

    def partial(self) -> Any:
        """The class with the configured arguments, to be called with the rest."""
        settings = {name: value for name, value in self.settings.items() if name != "_partial_"}
        return instantiate(settings, _partial_=True, _convert_="all")


def _nested(key: str, value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Key and value of every node with a class in nested mappings and lists."""
    if isinstance(value, Mapping):
        if _TARGET in value:
            yield key, value
        for name, entry in value.items():
            yield from _nested(f"{key}.{name}", entry)
    elif isinstance(value, list | tuple):
        for place, entry in enumerate(value):
            yield from _nested(f"{key}[{place}]", entry)


def _signature(key: str, target: object) -> inspect.Signature | None:
    """What a class takes; None where it is written in C and does not say."""
    try:
        found = get_object(str(target))
    except Exception as error:  # whatever a module raises when it is imported
        raise ConfigError(f"{key}.{_TARGET}={target}: {first_line(error)}") from None
    if not callable(found):
        raise ConfigError(f"{key}.{_TARGET}={target}: no class or function")
    try:
        return inspect.signature(found)
    except ValueError:
        return None


def _bind(key: str, node: Mapping[str, Any], positional: int = 0, added: Sequence[str] = ()) -> None:
    signature = _signature(key, node[_TARGET])
    given = {str(name) for name in node if not (str(name).startswith("_") and str(name).endswith("_"))}
    twice = sorted(given & set(added))
    if twice:
        raise ConfigError(f"{key}.{twice[0]}: is set by the program; leave it out")
    if signature is None:
        return
    takes = signature.parameters
    unknown = sorted(given - set(takes))
    if unknown and not any(item.kind == item.VAR_KEYWORD for item in takes.values()):
        raise ConfigError(
            f"{key}.{unknown[0]}: {node[_TARGET]} takes no such argument; {nearest(unknown[0], takes)}. Leave it out "
            f"with ~{key}.{unknown[0]}"
        )
    try:
        values = [None] * (positional + len(node.get("_args_", ())))
        signature.bind(*values, **dict.fromkeys([*given, *added]))
    except TypeError as error:
        raise ConfigError(f"{key}: {node[_TARGET]}: {error}; give it as +{key}.<name>=<value>") from None


def drop_leftovers(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Where the command line names another class, the arguments of the old one that the new one does not take go."""
    given = {override.key_or_group for override in overrides}
    for key in given:
        place, _, last = key.rpartition(".")
        node: Any = OmegaConf.select(config, place) if last == _TARGET and place else None
        signature = None if node is None else _signature(place, node[_TARGET])
        if signature is None or any(item.kind == item.VAR_KEYWORD for item in signature.parameters.values()):
            continue
        for name in [name for name in node if str(name)[0] != "_" and name not in signature.parameters]:
            if f"{place}.{name}" not in given:
                with open_dict(node):
                    del node[name]
