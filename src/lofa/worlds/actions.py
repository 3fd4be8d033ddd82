"""The action set: verb x limb x side x speed x extent x direction, in one or two parts; split by composition.

Right and left are the figure's own; clockwise is what the viewer sees. Held-out classes are new compositions of old
words: every (verb, word) pair of a held-out single action, and every part of a held-out two-part action, occurs in a
training class.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

__all__ = ["ACTIONS", "SPLITS", "Action", "Part"]


class Part(NamedTuple):
    """One movement; a slot that does not apply is the empty string."""

    verb: str
    side: str = ""
    limb: str = ""
    direction: str = ""
    extent: str = ""
    speed: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The filled slots."""
        return tuple(slot for slot in self if slot)

    @property
    def name(self) -> str:
        """ "raise-right-arm-high-fast" """
        return "-".join(self.words)


@dataclass(frozen=True)
class Action:
    """One class: a single part, or two performed one after the other."""

    name: str
    parts: tuple[Part, ...]

    @property
    def group(self) -> str:
        """What the split is stratified by: verb and limb, or "two-part"."""
        return "two-part" if len(self.parts) > 1 else f"{self.parts[0].verb} {self.parts[0].limb}".strip()


_NO = ("",)
_SPEED = ("slow", "fast")
_SMALL = ("small", "wide")
_HIGH = ("low", "high")
_ONE = ("right", "left")
_ANY = ("right", "left", "both")
_TABLE: tuple[tuple[str, str, Sequence[str], Sequence[str], Sequence[str]], ...] = (
    # verb, limb, sides, extents, directions; every single action comes slow and fast
    ("raise", "arm", _ANY, _HIGH, _NO),
    ("raise", "leg", _ONE, _HIGH, _NO),
    ("lower", "arm", _ANY, _NO, _NO),
    ("wave", "arm", _ANY, _SMALL, _NO),
    ("punch", "arm", _ANY, _NO, ("sideways", "upwards")),
    ("swing", "arm", _ONE, _SMALL, _NO),
    ("swing", "leg", _ONE, _SMALL, _NO),
    ("circle", "arm", _ONE, _SMALL, ("clockwise", "counterclockwise")),
    ("kick", "leg", _ONE, _HIGH, _NO),
    ("lift", "knee", _ONE, _HIGH, _NO),
    ("march", "", _NO, _HIGH, _NO),
    ("step", "", _NO, _SMALL, ("rightwards", "leftwards")),
    ("lean", "", _NO, _SMALL, ("rightwards", "leftwards")),
    ("bow", "", _NO, _SMALL, _NO),
    ("squat", "", _NO, _SMALL, _NO),
    ("jump", "", _NO, _HIGH, _NO),
    ("tilt", "head", _NO, _SMALL, ("rightwards", "leftwards")),
    ("nod", "head", _NO, _SMALL, _NO),
    ("clap", "", _NO, _NO, ("front", "overhead")),
    ("spread", "arm", ("both",), _SMALL, _NO),
    ("spread", "leg", ("both",), _SMALL, _NO),
    ("curl", "arm", _ANY, _NO, _NO),
)
_ARMS = (
    *(Part("raise", side, "arm") for side in _ONE),
    *(Part("wave", side, "arm") for side in _ONE),
    *(Part("punch", side, "arm", "sideways") for side in _ONE),
    Part("clap", direction="front"),
    Part("spread", "both", "arm"),
)
_REST = (
    *(Part("kick", side, "leg") for side in _ONE),
    *(Part("lift", side, "knee") for side in _ONE),
    *(Part("lean", direction=direction) for direction in ("rightwards", "leftwards")),
    Part("bow"),
    Part("squat"),
    Part("jump"),
)


def _actions() -> Iterator[Action]:
    for verb, limb, sides, extents, directions in _TABLE:
        for side, direction, extent, speed in product(sides, directions, extents, _SPEED):
            part = Part(verb, side, limb, direction, extent, speed)
            yield Action(part.name, (part,))
    for i, arm in enumerate(_ARMS):
        for j, rest in enumerate(_REST):
            # five of nine partners each, the order alternating: every part comes first and second
            if (2 * i + j) % 9 < 5:
                first, second = (arm, rest) if (i + j) % 2 == 0 else (rest, arm)
                yield Action(f"{first.name}-then-{second.name}", (first, second))


def _keys(action: Action) -> set[tuple[str, str]]:
    """What training classes must hold for `action` to be a new composition of known things."""
    if len(action.parts) > 1:
        return {("part", part.name) for part in action.parts}
    return {(action.group, word) for word in action.parts[0].words}


def _split(actions: dict[str, Action]) -> dict[str, str]:
    """From each group a sixth to test and a twelfth to val, at least one each, while the module's law holds."""
    splits = dict.fromkeys(actions, "train")
    groups: dict[str, list[Action]] = {}
    # an order that looks random and never changes
    for action in sorted(actions.values(), key=lambda action: hashlib.sha256(action.name.encode()).hexdigest()):
        groups.setdefault(action.group, []).append(action)
    for group in groups.values():
        needed = set().union(*map(_keys, group))
        for split, share in (("test", 6), ("val", 12)):
            wanted = max(1, round(len(group) / share))
            for action in group:
                kept = [other for other in group if splits[other.name] == "train" and other is not action]
                if wanted and splits[action.name] == "train" and needed <= set().union(*map(_keys, kept)):
                    splits[action.name] = split
                    wanted -= 1
    return splits


ACTIONS: dict[str, Action] = {action.name: action for action in _actions()}
"""Every class by name."""

SPLITS: dict[str, str] = _split(ACTIONS)
"""Class name -> "train", "val" or "test"."""
