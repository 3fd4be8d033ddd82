"""Names of parameters in files of version 1, in which a network was one class with its trunk."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["renamed"]

_MOVED = {
    **{name: f"trunk.{name}" for name in ("tiles", "depth_embed", "kind_embed", "context_proj", "blocks", "norm")},
    "scale": "head.scale",
}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a part, "network.blocks.0 ..." -> "network.trunk.blocks.0 ..."; what has not moved stays."""
    new = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        first, dot, rest = name.partition(".")
        moved = part == "network" and first in _MOVED
        new[f"{part}.{_MOVED[first]}{dot}{rest}" if moved else key] = value
    return new
