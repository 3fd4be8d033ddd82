"""Poses over time: idling, wandering through arbitrary poses, and the movements of the action set.

u in [0, 1] is the time within a clip or within its half. A slow movement takes the whole of it; a fast one happens
twice, or in a fraction of it where it ends in a pose that is held. Two cycles in a clip is what four-fold temporal
compression still carries.
"""

import numpy as np

from lofa.worlds.actions import Action, Part
from lofa.worlds.skeleton import PARAMETERS, Array, pose

__all__ = ["act", "idle", "wander"]

Curves = dict[str, Array | float]
_SIDES = {"right": ("right",), "left": ("left",), "both": ("right", "left")}
_TOWARDS = {"rightwards": -1.0, "leftwards": 1.0}


def _smooth(x: Array) -> Array:
    """From 0 at x <= 0 to 1 at x >= 1, flat at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _breath(frames: int, rng: np.random.Generator) -> Array:
    """Small slow sway (frames, P) that nobody stands without."""
    size = {"lean": 1.2, "tilt": 2.5, "right arm": 2.5, "right elbow": 2.5, "left arm": 2.5, "left elbow": 2.5}
    u = np.linspace(0, 1, frames)
    sway = np.zeros((frames, len(PARAMETERS)))
    for name, amplitude in size.items():
        wave = np.sin(2 * np.pi * (u * rng.uniform(0.4, 0.9) + rng.uniform()))
        sway[:, PARAMETERS.index(name)] = amplitude * wave
    return sway


def _random_pose(rng: np.random.Generator) -> Array:
    """A pose (P,) from the whole range of limb poses."""
    curves: dict[str, Array | float] = {
        "x": rng.normal(0, 0.05), "lean": rng.normal(0, 14), "torso": rng.uniform(0.7, 1), "tilt": rng.normal(0, 18),
        "nod": rng.uniform(0.4, 1), "width": rng.uniform(0.4, 1), "jump": max(rng.normal(-0.05, 0.08), 0.0),
    }  # fmt: skip
    for side in ("right", "left"):
        curves |= {
            f"{side} arm": rng.uniform(-50, 185), f"{side} elbow": rng.uniform(-140, 140),
            f"{side} leg": rng.uniform(-15, 80), f"{side} knee": rng.uniform(-95, 15),
        }  # fmt: skip
        # half of the limbs relaxed, as most are at most times
        if rng.random() < 0.5:
            curves |= {f"{side} leg": rng.uniform(0, 25), f"{side} knee": rng.uniform(-25, 5)}
        if rng.random() < 0.3:
            curves |= {f"{side} arm": rng.uniform(0, 40), f"{side} elbow": rng.uniform(-30, 30)}
        for name in ("upper", "fore", "thigh", "shin"):
            curves[f"{side} {name}"] = 1 - 0.45 * max(rng.uniform(-0.8, 1), 0.0)
    q: Array = pose(1, curves)[0]
    return q


def idle(frames: int, rng: np.random.Generator) -> Array:
    """Poses (frames, P) of a figure that idles in an arbitrary pose and drifts slowly to one nearby."""
    start = _random_pose(rng)
    end = start + 0.22 * (_random_pose(rng) - start)
    share = _smooth(np.linspace(-0.1, 1.1, frames))[:, None]
    return start + (end - start) * share + _breath(frames, rng)


def wander(frames: int, rng: np.random.Generator) -> Array:
    """Poses (frames, P) that pass through two to five arbitrary ones, at the speeds of the action set."""
    keys = np.stack([_random_pose(rng) for _ in range(rng.integers(2, 6))])
    time = np.linspace(0, len(keys) - 1, frames)
    index = np.minimum(time.astype(int), len(keys) - 2)
    share = _smooth(time - index)[:, None]
    q: Array = keys[index] * (1 - share) + keys[index + 1] * share
    return q


class _Timing:
    """The seed's own timing and strength of one movement; curves over time are (frames,)."""

    def __init__(self, part: Part, frames: int, whole: bool, rng: np.random.Generator) -> None:
        self.u = np.linspace(0, 1, frames)
        self.fast = part.speed == "fast"
        self.cycles = (2.0 if self.fast else 1.0) if whole else 1.0
        self.delay, self.phase, stretch = rng.uniform(0, 0.08), rng.uniform(0, 1), rng.uniform(0.94, 1.06)
        start = rng.uniform(0.05, 0.4) if self.fast else rng.uniform(0.0, 0.12)
        self.gain = rng.uniform(0.92, 1.08)
        self.extent = (0.55 if part.extent in ("low", "small") else 1.0) * self.gain
        # from 0 to 1, then held
        self.rise = _smooth((self.u - start) / ((0.22 if self.fast else 0.8) * stretch))
        # from 0 to 1 and back, once a cycle
        x = np.clip((self.u - self.delay) / (0.92 / stretch), 0, 1) * self.cycles
        self.bumps = 0.5 - 0.5 * np.cos(2 * np.pi * x)
        # cycles done, from a random start
        self.turns = self.phase + self.u * self.cycles * stretch
        self.sway = np.sin(2 * np.pi * self.turns)


def _each(part: Part, **curves: Array | float) -> Curves:
    return {f"{side} {name}": curve for side in _SIDES[part.side or "both"] for name, curve in curves.items()}


def _curves(part: Part, t: _Timing) -> Curves:
    """What a movement does to the pose over time; what it does not name stays as in standing."""
    match part.verb, part.limb:
        case "raise", "arm":
            target = 158 if part.extent in ("high", "") else 84
            return _each(part, arm=20 + (target * t.gain**0.5 - 20) * t.rise)
        case "raise", "leg":
            return _each(part, leg=9 + 68 * t.extent * t.rise)
        case "lower", _:
            return _each(part, arm=158 * t.gain**0.5 - 138 * t.rise)
        case "wave", _:
            swing = (26 if part.extent == "small" else 66) * t.gain
            return _each(part, arm=95.0, elbow=72 + swing * t.sway)
        case "punch", _:
            out, target = t.bumps**0.8, 90 if part.direction == "sideways" else 172
            return _each(part, arm=34 + (target - 34) * out, elbow=138 * (1 - out))
        case "swing", "arm":
            return _each(part, arm=18 + 66 * t.extent * t.sway, elbow=2.0)
        case "swing", "leg":
            return _each(part, leg=16 + 38 * t.extent * t.sway, knee=-4.0)
        case "circle", _:
            outwards = (part.direction == "clockwise") == (part.side == "right")
            angle = 360 * t.turns * (1 if outwards else -1)
            if part.extent == "small":  # drawn by the forearm alone
                return _each(part, arm=72.0, elbow=angle - 72)
            return _each(part, arm=angle, elbow=0.0)
        case "kick", _:
            out = t.bumps
            top = 80 if part.extent in ("high", "") else 42
            chamber = 4 * out * (1 - out)
            other, sign = ("left", 1) if part.side == "right" else ("right", -1)
            curves = _each(part, leg=9 + (top * t.gain**0.5 - 9) * out**0.7, knee=-62 * chamber)
            return curves | {f"{other} arm": 20 + 26 * out, "lean": sign * 9 * out}
        case "lift", _:
            up = t.bumps
            top = (86 if part.extent in ("high", "") else 46) * t.gain**0.5
            return _each(part, leg=9 + (top - 9) * up, knee=-(top - 4) * up, thigh=1 - 0.15 * up)
        case "march", _:
            x = t.turns - t.phase + 0.5 * (t.phase > 0.5)
            curves = {}
            for side, sign in (("right", 1), ("left", -1)):
                lift = np.maximum(sign * np.sin(2 * np.pi * x), 0)
                curves |= {f"{side} leg": 9 + 74 * t.extent * lift, f"{side} knee": -76 * t.extent * lift}
                curves |= {f"{side} arm": 20 + 20 * (1 - lift), f"{side} elbow": -30 * (1 - lift) + 4}
            return curves
        case "step", _:
            towards = _TOWARDS[part.direction]
            x = np.clip((t.u - t.delay) / 0.9, 0, 1) * t.cycles
            done, p = np.floor(x), x % 1.0
            spread = np.sin(np.pi * p)
            travel = (0.26 if t.fast else 0.34) * t.extent
            lead, trail = ("left", "right") if towards > 0 else ("right", "left")
            curves = {"x": towards * travel * ((done + _smooth(p)) - t.cycles / 2)}
            # the leading leg opens first and the trailing one follows
            for side, share in ((lead, 1 - p), (trail, p)):
                curves |= {f"{side} leg": 9 + 46 * t.extent * spread * share, f"{side} knee": -20 * spread * share}
            return curves
        case "lean", _:
            return {"lean": _TOWARDS[part.direction] * 44 * t.extent * t.bumps}
        case "bow", _:
            down = t.extent * t.bumps
            return {"torso": 1 - 0.65 * down, "nod": 1 - 0.5 * down} | _each(part, arm=20 - 6 * down)
        case "squat", _:
            down = t.extent * t.bumps
            legs = _each(part, leg=9 + 68 * down, knee=-92 * down, thigh=1 - 0.25 * down)
            return legs | _each(part, arm=20 + 30 * down, elbow=4 - 120 * down)
        case "jump", _:
            x = np.clip((t.u - t.delay) / 0.92, 0, 1) * t.cycles % 1.0
            flight = np.clip(np.sin(np.pi * (x - 0.25) / 0.5), 0, 1) * ((x > 0.25) & (x < 0.75))
            crouch = np.exp(-(((x - 0.17) / 0.09) ** 2)) + np.exp(-(((x - 0.83) / 0.09) ** 2))
            legs = _each(part, leg=9 + 26 * crouch + 8 * flight, knee=-44 * crouch)
            return legs | {"jump": 0.24 * t.extent * flight} | _each(part, arm=20 + 70 * t.extent * flight)
        case "tilt", _:
            towards = _TOWARDS[part.direction]
            return {"tilt": towards * 75 * t.extent * t.bumps, "lean": towards * 6 * t.extent * t.bumps}
        case "nod", _:
            down = t.extent * t.bumps
            return {"nod": 1 - 1.1 * down, "torso": 1 - 0.03 * down}
        case "clap", _:
            apart = t.bumps
            if part.direction == "overhead":
                return _each(part, arm=168 - 52 * apart, elbow=32 - 26 * apart)
            return _each(part, arm=22 + 50 * apart, elbow=-118 + 62 * apart)
        case "spread", "arm":
            return _each(part, arm=20 + 84 * t.extent * t.bumps)
        case "spread", "leg":
            return _each(part, leg=9 + 30 * t.extent * t.bumps)
        case "curl", _:
            up = t.bumps
            return _each(part, arm=20 + 12 * up, elbow=4 + 142 * t.gain**0.5 * up)
    raise ValueError(f"no movement is written for {part}")


def _perform(part: Part, frames: int, whole: bool, rng: np.random.Generator) -> Array:
    """What one movement adds to the standing pose, (frames, P)."""
    return pose(frames, _curves(part, _Timing(part, frames, whole, rng))) - pose(frames)


def act(action: Action, frames: int, rng: np.random.Generator) -> Array:
    """Poses (frames, P) of one performance of `action`; the second of two parts takes over in the middle."""
    q = pose(frames) + _breath(frames, rng)
    if len(action.parts) == 1:
        return q + _perform(action.parts[0], frames, True, rng)
    half = (frames + 1) // 2
    first, second = (_perform(part, half, False, rng) for part in action.parts)
    # a raised limb comes down again while the second movement begins
    fade = (1 - _smooth(np.arange(1, frames - half + 1) / 3))[:, None]
    q[:half] += first
    q[half:] += first[-1:] * fade
    q[frames - half :] += second * _smooth(np.arange(half) / 2)[:, None]
    return q
