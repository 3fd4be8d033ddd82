"""Clips of the procedural world: a seed and a class give frames, exact joints and a caption.

A class is named by its key in `ACTIONS`; None is a generic pre-training clip, which belongs to no class. Clips of one
seed share their look across classes; clips of one class differ in look, wording, timing and strength.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lofa.worlds.actions import ACTIONS
from lofa.worlds.appearance import Appearance
from lofa.worlds.captions import caption
from lofa.worlds.motion import act, idle, wander
from lofa.worlds.render import render
from lofa.worlds.skeleton import joints_of, place

__all__ = ["Clip", "random_motion", "sample_batch", "sample_motion"]


@dataclass(frozen=True)
class Clip:
    """One clip of the world.

    Attributes:
        frames: (T, H, W, 3)
        joints: (T, 15, 2), exact, x right and y down in [0, 1] of the image, the camera's drift included
    """

    frames: NDArray[np.uint8]
    joints: NDArray[np.float32]
    caption: str
    action: str | None
    appearance: Appearance


def sample_motion(action: str | None, seed: int, frames: int = 17) -> tuple[NDArray[np.float32], Appearance, str]:
    """Joints (frames, 15, 2) in [0, 1], look and caption of a clip: everything but the pixels."""
    rng = np.random.default_rng(seed)
    look = Appearance.random(rng)
    text = caption(look, action, rng)
    q = idle(frames, rng) if action is None else act(ACTIONS[action], frames, rng)
    return place(joints_of(q), look.height, look.camera(frames)).astype(np.float32), look, text


def sample_batch(actions: Sequence[str | None], seeds: Sequence[int], frames: int = 17, size: int = 64) -> list[Clip]:
    """One clip for each (action, seed), drawn together; a clip does not depend on the others.

    Args:
        frames: length of every clip; 17 frames at 8 a second is what the classes are made for.
        size: height and width in pixels.
    """
    drawn = [sample_motion(action, seed, frames) for action, seed in zip(actions, seeds, strict=True)]
    video = render(np.stack([joints for joints, _, _ in drawn]), [look for _, look, _ in drawn], size)
    return [
        Clip(clip, joints, text, action, look)
        for clip, (joints, look, text), action in zip(video, drawn, actions, strict=True)
    ]


def random_motion(rng: np.random.Generator, frames: int = 17) -> NDArray[np.float32]:
    """Joints (frames, 15, 2) in [0, 1] of arbitrary motion over the whole range of limb poses, for training a VAE."""
    height = rng.uniform(0.58, 0.76)
    camera = rng.uniform(-0.006, 0.006, 2) * (np.arange(frames)[:, None] - (frames - 1) / 2)
    return place(joints_of(wander(frames, rng)), height, camera).astype(np.float32)
