"""Random adapters."""

from collections.abc import Mapping, Sequence

import torch

from lofa.adapters import Adapter, LowRank
from lofa.backbones import LayerSpec


def random_adapter(
    layers: Sequence[LayerSpec],
    rank: int = 3,
    alpha: float = 0.7,
    seed: int = 0,
    scale: float = 0.2,
    ranks: Mapping[str, int] | None = None,
) -> Adapter:
    """An adapter of normal entries on those layers; `ranks` gives layers another rank (and alpha twice as large)."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in layers:
        own = (ranks or {}).get(layer.name, rank)
        A = torch.randn(own, layer.in_features, generator=generator) * scale
        B = torch.randn(layer.out_features, own, generator=generator) * scale
        pairs[layer.name] = LowRank(A, B, torch.tensor(alpha if own == rank else 2 * alpha))
    return Adapter(pairs, {"made by": "a test", "rank": str(rank)})
