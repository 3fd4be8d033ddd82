"""The procedural world: articulated figures that act, with captions and exact 2-D joints, drawn from a seed."""

from lofa.worlds.actions import ACTIONS, SPLITS, Action, Part, find_action
from lofa.worlds.appearance import Appearance
from lofa.worlds.captions import GENERIC_PHRASES, action_phrases, appearance_phrases, caption, split_words, vocabulary
from lofa.worlds.render import render
from lofa.worlds.skeleton import BONES, JOINTS, fit_pose
from lofa.worlds.world import FPS, GENERIC, Clip, random_motion, sample_batch, sample_clip, sample_motion

__all__ = [
    "ACTIONS",
    "BONES",
    "FPS",
    "GENERIC",
    "GENERIC_PHRASES",
    "JOINTS",
    "SPLITS",
    "Action",
    "Appearance",
    "Clip",
    "Part",
    "action_phrases",
    "appearance_phrases",
    "caption",
    "find_action",
    "fit_pose",
    "random_motion",
    "render",
    "sample_batch",
    "sample_clip",
    "sample_motion",
    "split_words",
    "vocabulary",
]
