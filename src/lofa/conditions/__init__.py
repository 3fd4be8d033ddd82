"""Conditions: text and pose -> condition tokens a hypernetwork attends to."""

from lofa.conditions.compose import ComposedEncoder, compose, drop_kinds
from lofa.conditions.condition import Condition, Inputs, Padded, Tokens, pad_rows
from lofa.conditions.kind import ConditionEncoder, ConditionKind, PromptEncoder
from lofa.conditions.pose import PoseEncoder, PoseInput, normalise_pose
from lofa.conditions.spread import spread, spreads
from lofa.conditions.table import CONDITIONS, PROMPT, encoder_classes, find_kind
from lofa.conditions.text import TextEncoder

__all__ = [
    "CONDITIONS",
    "PROMPT",
    "ComposedEncoder",
    "Condition",
    "ConditionEncoder",
    "ConditionKind",
    "Inputs",
    "Padded",
    "PoseEncoder",
    "PoseInput",
    "PromptEncoder",
    "TextEncoder",
    "Tokens",
    "compose",
    "drop_kinds",
    "encoder_classes",
    "find_kind",
    "normalise_pose",
    "pad_rows",
    "spread",
    "spreads",
]
