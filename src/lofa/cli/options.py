"""Typed options of a command: the fields that schemas are made of, and options taken over from other rooms."""

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache, partial, reduce
from itertools import pairwise
from operator import or_
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from lofa.errors import ConfigError

__all__ = ["LARGEST_SEED", "Option", "build", "check_numbers", "list_options", "option", "section", "text"]

LARGEST_SEED = 2**32 - 1
"""Of numpy's generators."""


@dataclass(frozen=True)
class Option:
    """One key of a command, for its help page and for the quoting of text.

    name: dotted key. kind: "text", "int", "list of str", ... default: value, `MISSING` where one must be given.
    help: one line. verbatim: the value is taken character by character.
    """

    name: str
    kind: str
    default: object
    help: str
    verbatim: bool


def option(default: object, help: str, least: float | None = None, most: float | None = None) -> Any:
    """A key whose value is written in Hydra's grammar (numbers, booleans, lists); numbers from `least` to `most`."""
    return _field(default, {"help": help, "verbatim": False, "least": least, "most": most})


def text(default: object, help: str) -> Any:
    """A key that holds text or a path, taken verbatim from the command line."""
    return _field(default, {"help": help, "verbatim": True})


def _field(default: object, metadata: dict[str, object]) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def section(options: type, without: Collection[str] = (), verbatim: Collection[str] = ()) -> type:
    """A schema with the fields, types and defaults of the options class of another room.

    The class itself can't serve: OmegaConf makes frozen dataclasses read-only and never runs their checks; `build`
    makes an object of the class from the filled schema. `without` leaves fields out, `verbatim` names those that
    hold text or paths. Pass tuples: the schema of one class is made once.
    """
    hints = get_type_hints(options)
    helps = _read_helps(options)
    entries = [
        (
            item.name,
            Any if _nested(item) else _mutable(hints[item.name]),
            _copy(item, helps.get(item.name, ""), item.name in verbatim),
        )
        for item in fields(options)
        if item.name not in without
    ]
    return make_dataclass(f"{options.__name__}Schema", entries)


def _copy(item: "Field[Any]", help: str, verbatim: bool) -> Any:
    metadata = {"help": help, "verbatim": verbatim, **item.metadata}
    nested = _nested(item)
    if nested is not None:
        schema: Any = section(cast(Any, type(nested)))
        return field(default_factory=partial(schema, **vars(nested)))
    if item.default_factory is not NO_DEFAULT:
        return field(default_factory=item.default_factory, metadata=metadata)
    return field(default=MISSING if item.default is NO_DEFAULT else item.default, metadata=metadata)


def _nested(item: "Field[Any]") -> Any:
    """The options object that is the field's default, None for plain values."""
    default = item.default if item.default_factory is NO_DEFAULT else item.default_factory()
    return default if is_dataclass(default) and default is not NO_DEFAULT else None


def build(options: type, config: DictConfig, **more: object) -> Any:
    """An object of the class `options` from its filled schema and the fields that were left out of it."""
    values = OmegaConf.to_container(config, resolve=True)
    nested = {item.name: type(_nested(item)) for item in fields(options) if _nested(item) is not None}
    made = {name: build(kind, config[name]) for name, kind in nested.items() if name not in more}
    return options(**{**values, **made, **more})


def list_options(schema: type, prefix: str = "") -> Iterator[Option]:
    """Every key of a schema, nested ones dotted, in the order of the source."""
    hints = get_type_hints(schema)
    for item in fields(schema):
        default = item.default if item.default_factory is NO_DEFAULT else item.default_factory()
        if is_dataclass(default):
            yield from list_options(type(default), f"{prefix}{item.name}.")
        elif "help" in item.metadata:
            verbatim = bool(item.metadata["verbatim"])
            kind = "text" if verbatim else _kind(hints[item.name])
            yield Option(prefix + item.name, kind, default, item.metadata["help"], verbatim)


def check_numbers(config: DictConfig, prefix: str = "") -> None:
    """Refuses numbers outside the limits of their options, and NaN or infinity anywhere (ConfigError)."""
    kind = OmegaConf.get_type(config)
    known = {item.name: item.metadata for item in fields(kind)} if isinstance(kind, type) and is_dataclass(kind) else {}
    for name in config:
        if OmegaConf.is_missing(config, name):
            continue
        key, value = f"{prefix}{name}", config[name]
        about: Mapping[Any, Any] = known.get(str(name), {})
        if isinstance(value, DictConfig):
            check_numbers(value, f"{key}.")
            continue
        for number in value if OmegaConf.is_list(value) else [value]:
            wanted = _wanted(number, about.get("least"), about.get("most"))
            if wanted:
                raise ConfigError(f"{key}={value}: must be {wanted}" + (f" ({about['help']})" if about else ""))


def _wanted(number: object, least: float | None, most: float | None) -> str:
    """What a number is not; "" where all is well, and for what is no number."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return ""
    if not math.isfinite(number):
        return "a finite number"
    if least is not None and number < least:
        return f"at least {least:g}"
    return f"at most {most:.10g}" if most is not None and number > most else ""


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


def _mutable(hint: object) -> object:
    """OmegaConf knows `dict` but not `Mapping`."""
    if get_origin(hint) is Mapping:
        return dict[get_args(hint)]  # type: ignore[misc]
    if get_origin(hint) in (Union, UnionType):
        return reduce(or_, map(_mutable, get_args(hint)))
    return hint


def _read_helps(options: type) -> dict[str, str]:
    """What a class and its bases say of their fields: `name: text` under "Attributes:", or a string below the field."""
    helps: dict[str, str] = {}
    for base in reversed(options.__mro__[:-1]):
        helps |= _attribute_entries(base.__doc__ or "") | _field_strings(base)
    return helps


def _attribute_entries(doc: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    name = ""
    for line in doc.partition("Attributes:")[2].splitlines():
        match = re.fullmatch(r"\s+(\w+): (.+)", line)
        if match:
            name, entries[match[1]] = match[1], match[2]
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return entries


def _field_strings(base: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    return {
        item.target.id: " ".join(str(below.value.value).split())
        for item, below in pairwise(body)
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }
