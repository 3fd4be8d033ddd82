"""Clips of the procedural world: a seed and a class give frames, exact joints and a caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lofa.worlds.actions import find_action
from lofa.worlds.appearance import Appearance
from lofa.worlds.captions import caption
from lofa.worlds.motion import act
from lofa.worlds.poses import idle, wander
from lofa.worlds.render import render
from lofa.worlds.skeleton import joints_of, place

__all__ = ["FPS", "GENERIC", "Clip", "random_motion", "sample_batch", "sample_clip", "sample_motion"]

FPS = 8
GENERIC = "generic"
"""`Clip.action` of pre-training clips, which belong to no class."""


@dataclass(frozen=True)
class Clip:
    """One clip of the world."""

    frames: NDArray[np.uint8]
    """(T, H, W, 3)"""
    joints: NDArray[np.float32]
    """(T, 15, 2), exact, x right and y down in [0, 1] of the image, the camera's drift included"""
    caption: str
    action: str
    """name of the class, or "generic" """
    appearance: Appearance
    seed: int


def sample_motion(action: str | None, seed: int, frames: int = 17) -> tuple[NDArray[np.float32], Appearance, str]:
    """Joints (frames, 15, 2) in [0, 1], look and caption of the clip of `sample_clip`: everything but the pixels.

    Raises ValueError for an unknown action, a negative seed or fewer than two frames.
    """
    if seed < 0 or frames < 2:
        raise ValueError(f"a clip needs a seed >= 0 and at least 2 frames, got seed={seed}, frames={frames}")
    rng = np.random.default_rng(seed)
    look = Appearance.random(rng)
    chosen = None if action is None else find_action(action)
    text = caption(look, chosen, rng)
    q = idle(frames, rng) if chosen is None else act(chosen, frames, rng)
    return place(joints_of(q), look.height, look.camera(frames)).astype(np.float32), look, text


def sample_batch(actions: Sequence[str | None], seeds: Sequence[int], frames: int = 17, size: int = 64) -> list[Clip]:
    """One clip for each (action, seed), drawn together; each equals what `sample_clip` gives alone.

    Args:
        actions: names of classes; None is a generic pre-training clip.
        seeds: as many, each >= 0.
        frames: length of every clip; 17 frames at 8 a second is what the classes are made for.
        size: height and width in pixels.
    """
    if len(actions) != len(seeds):
        raise ValueError(f"{len(actions)} actions need as many seeds, got {len(seeds)}")
    if not actions:
        return []
    drawn = [sample_motion(action, seed, frames) for action, seed in zip(actions, seeds, strict=True)]
    video = render(np.stack([joints for joints, _, _ in drawn]), [look for _, look, _ in drawn], size)
    return [
        Clip(video[i], joints, text, GENERIC if actions[i] is None else str(actions[i]), look, int(seeds[i]))
        for i, (joints, look, text) in enumerate(drawn)
    ]


def sample_clip(action: str | None, seed: int, frames: int = 17, size: int = 64) -> Clip:
    """The clip of class `action` (None: a generic pre-training clip) with this seed: same arguments, same clip.

    Clips of one seed share their look across classes; clips of one class differ in look, wording, timing and strength.
    """
    return sample_batch([action], [seed], frames, size)[0]


def random_motion(rng: np.random.Generator, frames: int = 17) -> NDArray[np.float32]:
    """Joints (frames, 15, 2) in [0, 1] of arbitrary motion over the whole range of limb poses, for training a VAE."""
    height = rng.uniform(0.58, 0.76)
    camera = rng.uniform(-0.006, 0.006, 2) * (np.arange(frames)[:, None] - (frames - 1) / 2)
    return place(joints_of(wander(frames, rng)), height, camera).astype(np.float32)
