"""Conditions: text and pose -> condition tokens a hypernetwork attends to."""

from torch import nn

from lofa.conditions.condition import Condition, pad_rows
from lofa.conditions.pose import PoseEncoder, normalise_pose
from lofa.conditions.text import TextEncoder

__all__ = ["CONDITION_ENCODERS", "Condition", "PoseEncoder", "TextEncoder", "normalise_pose", "pad_rows"]

CONDITION_ENCODERS: dict[str, type[nn.Module]] = {"text": TextEncoder, "pose": PoseEncoder}
"""The encoders a saved predictor may name; each has `.width` and a json-able `.config` of its constructor values."""
