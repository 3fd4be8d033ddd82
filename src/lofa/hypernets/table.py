"""The kinds of hypernetwork."""

from lofa.hypernets.protocol import Hypernetwork
from lofa.hypernets.single_stage import SingleStage
from lofa.hypernets.two_stage import TwoStage

__all__ = ["HYPERNETS"]

HYPERNETS: dict[str, type[Hypernetwork]] = {"two_stage": TwoStage, "single_stage": SingleStage}
"""What `hypernet.kind` may be, and a saved predictor may name."""
