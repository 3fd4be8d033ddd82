"""The adapter in a small space, for comparison: the network of `single_stage` with `LightweightHead`."""

from lofa.hypernets.single_stage import SingleStage

__all__ = ["Lightweight"]


class Lightweight(SingleStage):
    """Part: adapter, which predicts coefficients in fixed bases."""

    fixed = {**SingleStage.fixed, "head": "lightweight"}
