"""Writing an adapter as the user asked, read back at once: what was lost is measured, not presumed."""

from pathlib import Path

import torch

from lofa.adapters import Adapter

__all__ = ["export_adapter"]

_EXACT = 1e-6
"""Below this distance two adapters are the same up to float32's rounding."""


def export_adapter(
    adapter: Adapter,
    out: str | Path,
    format: str = "diffusers",
    dtype: torch.dtype | None = None,
    rank: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes `out` in `format`, `dtype` and at most `rank`, and reads it again.

    Returns:
        what was written, in words: format, layers, rank, and the distance from the adapter in norms of the update
    """
    less = adapter if rank is None else adapter.reduced(rank)
    files = less.save(out, format, dtype, overwrite)
    written = dict(item for file in files for item in Adapter.load(file).items())
    distance = adapter.distance(written)
    ranks = sorted({pair.rank for pair in less.values()})
    lost = "exact" if distance < _EXACT else f"off by {distance:.2g} of the update's norm"
    parts = f" in {' and '.join(file.name for file in files)}" if len(files) > 1 else ""
    return f"{format}, {len(less)} layers{parts}, rank {', '.join(map(str, ranks))}, {lost}"
