"""Captions: one grammar for appearance and motion, with paraphrases; the tables here hold every word a caption can use.

A phrase is built from slots, each with several wordings; `action_phrases` and `appearance_phrases` enumerate them, so
the vocabulary is read off the grammar and not collected from samples.
"""

import re
from functools import cache
from itertools import chain, product, starmap

import numpy as np

from lofa.worlds.actions import ACTIONS, Action, Part
from lofa.worlds.appearance import BACKGROUNDS, BODIES, DRIFTS, SIZES, STYLES, Appearance

__all__ = ["GENERIC_PHRASES", "action_phrases", "appearance_phrases", "caption", "split_words", "vocabulary"]

GENERIC_PHRASES: tuple[str, ...] = (
    "stands idle", "moves about", "shifts around", "idles", "rests", "is just there", "lingers",
)  # fmt: skip
"""Motion of pre-training clips: no word of the action set."""

_SIZE = {"small": ("small", "little"), "large": ("large", "big")}
_STYLE = {
    "plain": ("plain {} background", "flat {} background"),
    "two-tone": ("two-tone {} background", "{} two-tone background"),
    "gradient": ("{} gradient background", "soft {} gradient background"),
    "floor": ("{} background with a floor line", "{} background with floor line"),
}
_DRIFT = {"still": ("still camera", "the camera is still", "static camera")} | {
    drift: (f"camera drifting {drift}", f"the camera drifts {drift}", f"camera moving {drift}")
    for drift in DRIFTS
    if drift != "still"
}
_LOOK = ("a {size} {body} {noun} on a {style}, {drift}", "{drift}, a {size} {body} {noun} against a {style}")
_NOUN = ("figure", "person")
_SPEED = {"slow": ("slowly", "at a slow pace"), "fast": ("quickly", "fast", "rapidly")}
_EXTENT = {
    "low": ("low", "halfway up"), "high": ("high", "all the way up"),
    "small": ("slightly", "a little"), "wide": ("widely", "a lot"),
}  # fmt: skip
_EXTENT_OF = {
    ("circle", "small"): ("in small circles", "in narrow circles"),
    ("circle", "wide"): ("in wide circles", "in large circles"),
    ("march", "low"): ("with low knees",), ("march", "high"): ("with high knees",),
    ("jump", "low"): ("low", "a little"), ("jump", "high"): ("high", "high up"),
    ("step", "small"): ("a short way",), ("step", "wide"): ("a long way",),
    ("bow", "wide"): ("deeply", "a lot"), ("nod", "wide"): ("deeply", "a lot"),
    ("squat", "wide"): ("deeply", "a lot"),
}  # fmt: skip
"""Wordings of an extent that suit one verb better."""
_DIRECTION = {
    "rightwards": ("to the right",), "leftwards": ("to the left",), "sideways": ("sideways", "to the side"),
    "upwards": ("upwards", "straight up"), "clockwise": ("clockwise",), "counterclockwise": ("counterclockwise",),
    "front": ("in front", "at the chest"), "overhead": ("overhead", "above the head"),
}  # fmt: skip
_MOTION: dict[str, tuple[str, ...]] = {
    "raise": ("raises {limb}", "lifts {limb}"),
    "lower": ("lowers {limb}", "brings {limb} down", "drops {limb}"),
    "wave": ("waves {limb}", "waves with {limb}"),
    "punch": ("punches with {limb}", "strikes with {limb}"),
    "swing": ("swings {limb}", "lets {limb} swing"),
    "circle": ("circles {limb}", "rotates {limb}"),
    "kick": ("kicks with {limb}", "kicks {limb}"),
    "lift": ("lifts {limb}", "raises {limb}", "pulls up {limb}"),
    "march": ("marches in place", "walks in place"),
    "step": ("steps", "takes steps"),
    "lean": ("leans", "bends sideways"),
    "bow": ("bows", "bends forward"),
    "squat": ("squats", "crouches", "bends both knees"),
    "jump": ("jumps", "hops", "leaps"),
    "tilt": ("tilts the head", "leans the head"),
    "nod": ("nods", "nods the head"),
    "clap": ("claps", "claps both hands"),
    "spread": ("spreads {limb}", "opens {limb}"),
    "curl": ("curls {limb}", "bends {limb} at the elbow"),
}
_ORDER = ("{first}, then {second}", "first {first}, then {second}", "{first} and then {second}")


def _limb(part: Part) -> tuple[str, ...]:
    if not part.limb or part.limb == "head":
        return ("",)
    if part.side == "both":
        return (f"both {part.limb}s",)
    return (f"the {part.side} {part.limb}", f"its {part.side} {part.limb}")


@cache
def _part_phrases(part: Part) -> tuple[str, ...]:
    """Every wording of one movement."""
    phrases = []
    extents = _EXTENT_OF.get((part.verb, part.extent), _EXTENT.get(part.extent, ("",)))
    slots = (_MOTION[part.verb], _limb(part), _DIRECTION.get(part.direction, ("",)), extents)
    for motion, limb, direction, extent in product(*slots):
        core = " ".join(piece for piece in (motion.format(limb=limb), direction, extent) if piece)
        speeds = _SPEED.get(part.speed, ())
        phrases += [core] if not speeds else [f"{core} {speed}" for speed in speeds]
        # adverbs of one word also go in front
        phrases += [f"{speed} {core}" for speed in speeds if speed.endswith("ly")]
    return tuple(phrases)


@cache
def action_phrases(action: Action) -> tuple[str, ...]:
    """Every wording of the motion of `action`, "quickly raises the right arm high"."""
    if len(action.parts) == 1:
        return _part_phrases(action.parts[0])
    wordings = product(_ORDER, *(_part_phrases(part) for part in action.parts))
    return tuple(order.format(first=first, second=second) for order, first, second in wordings)


@cache
def appearance_phrases(appearance: Appearance) -> tuple[str, ...]:
    """Every wording of a look, "a large red figure on a plain grey background, still camera"."""
    slots = (_LOOK, _SIZE[appearance.size], _NOUN, _STYLE[appearance.style], _DRIFT[appearance.drift])
    return tuple(
        look.format(size=size, body=appearance.body, noun=noun, style=style.format(appearance.background), drift=drift)
        for look, size, noun, style, drift in product(*slots)
    )


def caption(appearance: Appearance, action: str | None, rng: np.random.Generator) -> str:
    """One caption, wordings drawn with `rng`; at most 32 words where the text is the grammar's own.

    `action` is the name of a class, None for a generic pre-training clip, or text that describes the motion.
    """
    motions = GENERIC_PHRASES if action is None else (action,)
    if action in ACTIONS:
        motions = action_phrases(ACTIONS[action])
    looks = appearance_phrases(appearance)
    look, motion = looks[rng.integers(len(looks))], motions[rng.integers(len(motions))]
    return f"{look}, {motion}"


def split_words(text: str) -> list[str]:
    """Words of a caption: lower case, hyphens kept, punctuation dropped."""
    return re.findall(r"[^\W_]+(?:-[^\W_]+)*", text.lower())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word a caption of the grammar can use, sorted."""
    looks = starmap(Appearance, product(BODIES, BACKGROUNDS, STYLES, DRIFTS, SIZES))
    phrases = chain(map(appearance_phrases, looks), map(action_phrases, ACTIONS.values()), [GENERIC_PHRASES])
    return tuple(sorted({word for texts in phrases for text in texts for word in split_words(text)}))
