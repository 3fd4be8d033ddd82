"""The kinds of condition there are. A further one is a file with its `ConditionKind` and a line here."""

import sys
from typing import Any

from lofa.conditions.kind import ConditionEncoder, ConditionKind
from lofa.conditions.pose import Pose
from lofa.conditions.text import Text
from lofa.errors import DataError

__all__ = ["CONDITIONS", "PROMPT", "encoder_classes", "find_kind"]

PROMPT = Text()
"""The kind that every sample has, since backbones are steered by it."""

CONDITIONS: dict[str, ConditionKind] = {"text": PROMPT, "pose": Pose()}
"""Name of a kind -> what it is."""


def find_kind(name: str) -> ConditionKind:
    """The kind of a name (DataError: there is none)."""
    if name not in CONDITIONS:
        raise DataError(f"no kind of condition {name!r}; one of {', '.join(CONDITIONS)}")
    return CONDITIONS[name]


def encoder_classes() -> dict[str, type[ConditionEncoder]]:
    """The encoders that a file may name: each kind's own by the name of the kind, others by module and class.

    The others are classes outside this package, in a module that the process has imported; a file has none imported.
    """
    others = [
        one  # and not what FSDP2 makes of one
        for one in _below(ConditionEncoder)
        if getattr(sys.modules.get(one.__module__), one.__name__, None) is one
        and not one.__module__.startswith("lofa.")
    ]
    table = {f"{one.__module__}.{one.__name__}": one for one in others}
    return table | {name: kind.encoder for name, kind in CONDITIONS.items()}


def _below(kind: Any) -> list[type[ConditionEncoder]]:
    """All subclasses."""
    return [one for own in kind.__subclasses__() for one in (own, *_below(own))]
