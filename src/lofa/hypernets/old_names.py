"""Names of parameters in files of version 1, in which a network was one class with its trunk."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["renamed"]

_TRUNK = re.compile(r"^network\.(?=(tiles|depth_embed|kind_embed|context_proj|blocks|norm)\.)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part, "network.blocks.0 ..." -> "network.trunk.blocks.0 ..."; what has not moved stays."""
    trunk = {_TRUNK.sub("network.trunk.", key): value for key, value in state.items()}
    return {re.sub(r"^network\.scale\.", "network.head.scale.", key): value for key, value in trunk.items()}
