"""The stick figure: from pose parameters to 2-D joints, and from figure units to the image.

A figure of height 1 stands on y = 0 (y points down, so its head has y near -1) and faces the viewer: its right is the
image's left. A pose is a vector q of the `PARAMETERS`; with s = -1 for the right side and s = +1 for the left side a
segment of length l leaves its parent joint along

    l d(a),  d(a) = (s sin a, cos a)   a = 0 hangs down, a = 90 degrees points outwards, a = 180 degrees points up

and its child along d(a + bend). Arms turn with the torso's lean, legs do not. Scales in (0, 1] foreshorten what points
at the viewer.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["BONES", "JOINTS", "PARAMETERS", "fit_pose", "joints_of", "place", "pose"]

Array = NDArray[np.float64]

JOINTS: tuple[str, ...] = (
    "neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip", "right elbow", "left elbow",
    "right knee", "left knee", "right wrist", "left wrist", "right ankle", "left ankle",
)  # fmt: skip

BONES: tuple[tuple[str, tuple[tuple[int, int, float], ...]], ...] = (
    ("left", ((6, 10, 1.0), (10, 14, 1.0))),
    ("right", ((5, 9, 1.0), (9, 13, 1.0))),
    ("body", ((0, 1, 1.6), (3, 4, 1.1), (1, 5, 1.3), (1, 6, 1.3), (0, 2, 0.8))),
    ("body", ((2, 2, 2.1),)),
    ("left", ((4, 8, 0.95), (8, 12, 0.95))),
    ("right", ((3, 7, 0.95), (7, 11, 0.95))),
)
"""Layers from back to front: (shade, ((joint, joint, radius in limb radii), ...)); equal joints make a disc."""

_SIDED = ("arm", "elbow", "upper", "fore", "leg", "knee", "thigh", "shin")
PARAMETERS: tuple[str, ...] = (
    "x", "jump", "lean", "torso", "tilt", "nod", "width",
    *(f"{side} {name}" for side in ("right", "left") for name in _SIDED),
)  # fmt: skip
"""x and jump in figure heights; lean and tilt in degrees to the figure's left; torso, nod, width and the four segment
scales are factors; arm, elbow, leg and knee in degrees outwards."""

_INDEX = {name: i for i, name in enumerate(PARAMETERS)}
_REST = {"arm": 20.0, "elbow": 4.0, "leg": 9.0, "upper": 1.0, "fore": 1.0, "thigh": 1.0, "shin": 1.0}
_STAND = {"torso": 1.0, "nod": 1.0, "width": 1.0} | {
    f"{side} {name}": value for side in ("right", "left") for name, value in _REST.items()
}
_BELLY, _NECK, _FACE, _SHOULDER, _HIP = 0.12, 0.31, 0.155, 0.12, 0.065
_UPPER, _FORE, _THIGH, _SHIN = 0.18, 0.17, 0.235, 0.235
_FLOOR = 0.87
_MARGIN = 0.05


def pose(frames: int, curves: Mapping[str, Array | float] | None = None) -> Array:
    """Pose parameters (frames, P) of the standing figure, some replaced by `curves`: each (frames,) or a number."""
    q = np.zeros((frames, len(PARAMETERS)))
    for name, value in {**_STAND, **(curves or {})}.items():
        q[:, _INDEX[name]] = value
    return q


def joints_of(q: Array) -> Array:
    """Joints (..., 15, 2) in figure units of poses q (..., P); the lower foot is on y = 0 unless the figure jumps."""

    def vector(degrees: Array, length: Array | float) -> Array:
        angle = np.deg2rad(degrees)
        return np.stack([np.sin(angle) * length, np.cos(angle) * length], -1)

    p = {name: q[..., i] for name, i in _INDEX.items()}
    lean = p["lean"]
    joints = np.zeros((*q.shape[:-1], len(JOINTS), 2))
    joints[..., 0, :] = vector(180 - lean, _NECK * p["torso"])
    joints[..., 1, :] = vector(180 - lean, _BELLY * p["torso"])
    joints[..., 2, :] = joints[..., 0, :] + vector(180 - lean - p["tilt"], _FACE * p["nod"])
    for k, (side, s) in enumerate((("right", -1.0), ("left", 1.0))):
        shoulder = joints[..., 0, :] + vector(90 * s - lean, _SHOULDER * p["width"]) + vector(-lean, 0.02)
        arm = s * p[f"{side} arm"] - lean
        elbow = shoulder + vector(arm, _UPPER * p[f"{side} upper"])
        wrist = elbow + vector(arm + s * p[f"{side} elbow"], _FORE * p[f"{side} fore"])
        hip = vector(np.full_like(lean, 90 * s), _HIP * p["width"])
        leg = s * p[f"{side} leg"]
        knee = hip + vector(leg, _THIGH * p[f"{side} thigh"])
        ankle = knee + vector(leg + s * p[f"{side} knee"], _SHIN * p[f"{side} shin"])
        for first, point in ((3, shoulder), (5, hip), (7, elbow), (9, knee), (11, wrist), (13, ankle)):
            joints[..., first + k, :] = point
    joints[..., 0] += p["x"][..., None]
    joints[..., 1] -= (joints[..., 13:, 1].max(-1) + p["jump"])[..., None]
    return joints


def place(joints: Array, height: float, camera: Array) -> Array:
    """Figure units (T, 15, 2) to image coordinates in [0, 1].

    `height` is the figure's height as a share of the frame and `camera` (T, 2) what the camera's drift adds to every
    point. A motion that would leave the frame is moved, and made smaller if it must be, as a whole: its shape stays.
    """
    xy = joints * height + np.array([0.5, _FLOOR - (0.74 - height) / 2])
    low = _MARGIN - np.minimum(camera.min(0), 0)
    high = 1 - _MARGIN - np.maximum(camera.max(0), 0)
    head = 0.06  # the head's disc reaches beyond its joint
    first, last = xy.min((0, 1)), xy.max((0, 1))
    first[1] = min(first[1], xy[:, 2, 1].min() - head)
    scale = min(1.0, float(((high - low) / np.maximum(last - first, 1e-6)).min()))
    middle = (first + last) / 2
    first, last = middle + (first - middle) * scale, middle + (last - middle) * scale
    shift = np.maximum(low - first, 0) + np.minimum(high - last, 0)
    placed: Array = (xy - middle) * scale + middle + shift + camera[:, None]
    return placed


def fit_pose(keypoints: NDArray[np.floating], height: float = 0.7) -> NDArray[np.float32]:
    """Centre and scale a real pose sequence (T > 0, 15, 2), in any unit with y down, into the frame.

    One translation and one scale for the whole sequence, so that its motion stays. The typical pose becomes at most
    `height` long and every joint lies in [0, 1]; points that are not finite take their joint's mean over time (or the
    sequence's), and a sequence without extent becomes a dot in the middle.
    """
    points = np.asarray(keypoints, dtype=np.float64)
    known = np.isfinite(points).all(-1, keepdims=True)
    points = np.where(known, points, 0.0)
    overall = points.sum((0, 1)) / max(int(known.sum()), 1)
    count = known.sum(0)
    mean = np.where(count > 0, points.sum(0) / np.maximum(count, 1), overall)
    points = np.where(known, points, mean)
    low, high = points.min((0, 1)), points.max((0, 1))
    extent = float((high - low).max())
    typical = float(np.median((points.max(1) - points.min(1)).max(-1)))
    if extent < 1e-9:
        return np.full(points.shape, 0.5, dtype=np.float32)
    scale = min((1 - 4 * _MARGIN) / extent, height / max(typical, 1e-9))
    fitted: NDArray[np.float32] = ((points - (low + high) / 2) * scale + 0.5).astype(np.float32)
    return fitted
