"""Options: frozen dataclasses whose fields say what they mean and which values they take.

A class of options is used as it stands: in Python, and as the schema of a part of the configuration.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from lofa.errors import ConfigError

__all__ = ["LARGEST_SEED", "REQUIRED", "Options", "option", "text"]

LARGEST_SEED = 2**32 - 1
"""Of numpy's generators."""

REQUIRED: Any = MISSING
"""Default of an option that has to be given."""


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    among: Sequence[str] = (),
) -> Any:
    """A field, what it means in one line, and the values it takes: numbers of a range, words `among`.

    `least` and `most` belong to the range, `above` and `below` don't.
    """
    limits = {"least": least, "most": most, "above": above, "below": below}
    return _field(default, {"help": help, "limits": limits, "among": tuple(among)})


def text(default: Any, help: str) -> Any:
    """A field that holds text or a path: the command line takes it verbatim, whatever characters it holds."""
    return _field(default, {"help": help, "verbatim": True})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Base of every class of options: lists become tuples, and each value is held against its limits.

    Raises:
        ConfigError: a value outside of its limits, or NaN or infinity anywhere; it begins with `name=value`.
    """

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, tuple(value))
            for entry in value if isinstance(value, list | tuple) else [value]:
                words = _refusal(entry, item.metadata)
                meaning = f" ({item.metadata['help']})" if "help" in item.metadata else ""
                self.require(item.name, not words, words + meaning)

    def require(self, name: str, holds: bool, wanted: str) -> None:
        """Refuses the value of a field in the words "must be `wanted`"."""
        if not holds:
            raise ConfigError(f"{name}={getattr(self, name)}: must be {wanted}")


_LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "least": (operator.ge, "at least"),
    "most": (operator.le, "at most"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
}


def _refusal(value: object, metadata: Mapping[Any, Any]) -> str:
    """What a value of a field with this metadata has to be and is not; "" where all is well."""
    among = metadata.get("among")
    if among and isinstance(value, str) and value not in among:
        return f"one of {', '.join(among)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "a finite number"
    for name, limit in metadata.get("limits", {}).items():
        holds, words = _LIMITS[name]
        if limit is not None and not holds(value, limit):
            return f"{words} {limit:.10g}"
    return ""
