"""Arbitrary poses over time: idling in one, wandering through several; the whole range of limb poses, no action."""

import numpy as np

from lofa.worlds.skeleton import PARAMETERS, Array, pose

__all__ = ["breath", "idle", "smooth", "wander"]


def smooth(x: Array) -> Array:
    """From 0 at x <= 0 to 1 at x >= 1, flat at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def breath(frames: int, rng: np.random.Generator) -> Array:
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
    way = smooth(np.linspace(-0.1, 1.1, frames))[:, None]
    return start + (end - start) * way + breath(frames, rng)


def wander(frames: int, rng: np.random.Generator) -> Array:
    """Poses (frames, P) that pass through two to five arbitrary ones, at the speeds of the action set."""
    keys = np.stack([_random_pose(rng) for _ in range(rng.integers(2, 6))])
    time = np.linspace(0, len(keys) - 1, frames)
    index = np.minimum(time.astype(int), len(keys) - 2)
    way = smooth(time - index)[:, None]
    q: Array = keys[index] * (1 - way) + keys[index + 1] * way
    return q
