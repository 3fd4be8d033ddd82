"""The procedural world: articulated figures that act, with captions and exact 2-D joints, drawn from a seed."""

from lofa.worlds.actions import ACTIONS, SPLITS
from lofa.worlds.appearance import Appearance
from lofa.worlds.captions import caption, vocabulary
from lofa.worlds.render import render
from lofa.worlds.skeleton import JOINTS, fit_pose
from lofa.worlds.world import Clip, random_motion, sample_batch, sample_motion

__all__ = [
    "ACTIONS",
    "JOINTS",
    "SPLITS",
    "Appearance",
    "Clip",
    "caption",
    "fit_pose",
    "random_motion",
    "render",
    "sample_batch",
    "sample_motion",
    "vocabulary",
]
