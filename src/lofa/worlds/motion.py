"""Pose curves of the action set over time.

u in [0, 1] is the time within a clip or within its half. A slow movement takes the whole of it; a fast one happens
twice, or in a fraction of it where it ends in a pose that is held. Two cycles in a clip is what four-fold temporal
compression still carries.
"""

from collections.abc import Callable

import numpy as np

from lofa.worlds.actions import Action, Part
from lofa.worlds.poses import breath, smooth
from lofa.worlds.skeleton import Array, pose

__all__ = ["act"]

Curves = dict[str, Array | float]
_SIDES = {"right": ("right",), "left": ("left",), "both": ("right", "left")}
_TOWARDS = {"rightwards": -1.0, "leftwards": 1.0}


class _Timing:
    """The seed's own timing and strength of one movement."""

    def __init__(self, part: Part, frames: int, whole: bool, rng: np.random.Generator) -> None:
        self.u = np.linspace(0, 1, frames)
        self.fast = part.speed == "fast"
        self.cycles = (2.0 if self.fast else 1.0) if whole else 1.0
        self.delay, self.phase, self.stretch = rng.uniform(0, 0.08), rng.uniform(0, 1), rng.uniform(0.94, 1.06)
        self.start = rng.uniform(0.05, 0.4) if self.fast else rng.uniform(0.0, 0.12)
        self.span = 0.22 if self.fast else 0.8
        self.gain = rng.uniform(0.92, 1.08)
        self.extent = (0.55 if part.extent in ("low", "small") else 1.0) * self.gain

    def rise(self) -> Array:
        """From 0 to 1, then held."""
        return smooth((self.u - self.start) / (self.span * self.stretch))

    def bumps(self) -> Array:
        """From 0 to 1 and back, once a cycle."""
        x = np.clip((self.u - self.delay) / (0.92 / self.stretch), 0, 1) * self.cycles
        return 0.5 - 0.5 * np.cos(2 * np.pi * x)

    def turns(self) -> Array:
        """Cycles done at each time, from a random start."""
        return self.phase + self.u * self.cycles * self.stretch

    def sway(self) -> Array:
        """Between -1 and 1, from a random phase."""
        return np.sin(2 * np.pi * self.turns())


def _each(part: Part, **curves: Array | float) -> Curves:
    return {f"{side} {name}": curve for side in _SIDES[part.side or "both"] for name, curve in curves.items()}


def _raise(part: Part, t: _Timing) -> Curves:
    if part.limb == "leg":
        return _each(part, leg=9 + 68 * t.extent * t.rise())
    target = 158 if part.extent in ("high", "") else 84
    return _each(part, arm=20 + (target * t.gain**0.5 - 20) * t.rise())


def _lower(part: Part, t: _Timing) -> Curves:
    return _each(part, arm=158 * t.gain**0.5 - 138 * t.rise())


def _wave(part: Part, t: _Timing) -> Curves:
    swing = (26 if part.extent == "small" else 66) * t.gain
    return _each(part, arm=95.0, elbow=72 + swing * t.sway())


def _punch(part: Part, t: _Timing) -> Curves:
    out, target = t.bumps() ** 0.8, 90 if part.direction == "sideways" else 172
    return _each(part, arm=34 + (target - 34) * out, elbow=138 * (1 - out))


def _swing(part: Part, t: _Timing) -> Curves:
    if part.limb == "leg":
        return _each(part, leg=16 + 38 * t.extent * t.sway(), knee=-4.0)
    return _each(part, arm=18 + 66 * t.extent * t.sway(), elbow=2.0)


def _circle(part: Part, t: _Timing) -> Curves:
    outwards = (part.direction == "clockwise") == (part.side == "right")
    angle = 360 * t.turns() * (1 if outwards else -1)
    # a small circle is drawn by the forearm alone
    return _each(part, arm=72.0, elbow=angle - 72) if part.extent == "small" else _each(part, arm=angle, elbow=0.0)


def _kick(part: Part, t: _Timing) -> Curves:
    out = t.bumps()
    top = 80 if part.extent in ("high", "") else 42
    chamber = 4 * out * (1 - out)
    curves = _each(part, leg=9 + (top * t.gain**0.5 - 9) * out**0.7, knee=-62 * chamber)
    other = "left" if part.side == "right" else "right"
    return curves | {f"{other} arm": 20 + 26 * out, "lean": (1 if part.side == "right" else -1) * 9 * out}


def _knee(part: Part, t: _Timing) -> Curves:
    up = t.bumps()
    top = (86 if part.extent in ("high", "") else 46) * t.gain**0.5
    return _each(part, leg=9 + (top - 9) * up, knee=-(top - 4) * up, thigh=1 - 0.15 * up)


def _march(part: Part, t: _Timing) -> Curves:
    x = t.turns() - t.phase + 0.5 * (t.phase > 0.5)
    curves: Curves = {}
    for side, sign in (("right", 1), ("left", -1)):
        lift = np.maximum(sign * np.sin(2 * np.pi * x), 0)
        curves |= {f"{side} leg": 9 + 74 * t.extent * lift, f"{side} knee": -76 * t.extent * lift}
        curves |= {f"{side} arm": 20 + 20 * (1 - lift), f"{side} elbow": -30 * (1 - lift) + 4}
    return curves


def _step(part: Part, t: _Timing) -> Curves:
    towards = _TOWARDS[part.direction]
    x = np.clip((t.u - t.delay) / 0.9, 0, 1) * t.cycles
    done, p = np.floor(x), x % 1.0
    open_ = np.sin(np.pi * p)
    travel = (0.26 if t.fast else 0.34) * t.extent
    lead, trail = ("left", "right") if towards > 0 else ("right", "left")
    curves: Curves = {"x": towards * travel * ((done + smooth(p)) - t.cycles / 2)}
    # the leading leg opens first and the trailing one follows
    curves |= {f"{lead} leg": 9 + 46 * t.extent * open_ * (1 - p), f"{trail} leg": 9 + 46 * t.extent * open_ * p}
    return curves | {f"{lead} knee": -20 * open_ * (1 - p), f"{trail} knee": -20 * open_ * p}


def _lean(part: Part, t: _Timing) -> Curves:
    return {"lean": _TOWARDS[part.direction] * 44 * t.extent * t.bumps()}


def _bow(part: Part, t: _Timing) -> Curves:
    down = t.extent * t.bumps()
    return {"torso": 1 - 0.65 * down, "nod": 1 - 0.5 * down} | _each(part, arm=20 - 6 * down)


def _squat(part: Part, t: _Timing) -> Curves:
    down = t.extent * t.bumps()
    legs = _each(part, leg=9 + 68 * down, knee=-92 * down, thigh=1 - 0.25 * down)
    return legs | _each(part, arm=20 + 30 * down, elbow=4 - 120 * down)


def _jump(part: Part, t: _Timing) -> Curves:
    x = np.clip((t.u - t.delay) / 0.92, 0, 1) * t.cycles % 1.0
    flight = np.clip(np.sin(np.pi * (x - 0.25) / 0.5), 0, 1) * ((x > 0.25) & (x < 0.75))
    crouch = np.exp(-(((x - 0.17) / 0.09) ** 2)) + np.exp(-(((x - 0.83) / 0.09) ** 2))
    legs = _each(part, leg=9 + 26 * crouch + 8 * flight, knee=-44 * crouch)
    return legs | {"jump": 0.24 * t.extent * flight} | _each(part, arm=20 + 70 * t.extent * flight)


def _tilt(part: Part, t: _Timing) -> Curves:
    return {
        "tilt": _TOWARDS[part.direction] * 75 * t.extent * t.bumps(),
        "lean": _TOWARDS[part.direction] * 6 * t.extent * t.bumps(),
    }


def _nod(part: Part, t: _Timing) -> Curves:
    down = t.extent * t.bumps()
    return {"nod": 1 - 1.1 * down, "torso": 1 - 0.03 * down}


def _clap(part: Part, t: _Timing) -> Curves:
    apart = t.bumps()
    if part.direction == "overhead":
        return _each(part, arm=168 - 52 * apart, elbow=32 - 26 * apart)
    return _each(part, arm=22 + 50 * apart, elbow=-118 + 62 * apart)


def _spread(part: Part, t: _Timing) -> Curves:
    if part.limb == "leg":
        return _each(part, leg=9 + 30 * t.extent * t.bumps())
    return _each(part, arm=20 + 84 * t.extent * t.bumps())


def _curl(part: Part, t: _Timing) -> Curves:
    up = t.bumps()
    return _each(part, arm=20 + 12 * up, elbow=4 + 142 * t.gain**0.5 * up)


_PROGRAMS: dict[str, Callable[[Part, _Timing], Curves]] = {
    "raise": _raise, "lower": _lower, "wave": _wave, "punch": _punch, "swing": _swing, "circle": _circle,
    "kick": _kick, "lift": _knee, "march": _march, "step": _step, "lean": _lean, "bow": _bow, "squat": _squat,
    "jump": _jump, "tilt": _tilt, "nod": _nod, "clap": _clap, "spread": _spread, "curl": _curl,
}  # fmt: skip


def _perform(part: Part, frames: int, whole: bool, rng: np.random.Generator) -> Array:
    """What one movement adds to the standing pose, (frames, P)."""
    return pose(frames, _PROGRAMS[part.verb](part, _Timing(part, frames, whole, rng))) - pose(frames)


def act(action: Action, frames: int, rng: np.random.Generator) -> Array:
    """Poses (frames, P) of one performance of `action`; the second of two parts takes over in the middle."""
    q = pose(frames) + breath(frames, rng)
    if len(action.parts) == 1:
        return q + _perform(action.parts[0], frames, True, rng)
    half = (frames + 1) // 2
    first, second = (_perform(part, half, False, rng) for part in action.parts)
    # a raised limb comes down again while the second movement begins
    fade = (1 - smooth(np.arange(1, frames - half + 1) / 3))[:, None]
    q[:half] += first
    q[half:] += first[-1:] * fade
    q[frames - half :] += second * smooth(np.arange(half) / 2)[:, None]
    return q
