"""The kinds of condition there are. A further one is a file with its `ConditionKind` and a line here."""

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
    """The encoders that a file may name: each kind's own by the name of the kind."""
    return {name: kind.encoder for name, kind in CONDITIONS.items()}
