"""Writing an adapter as the user asked, read back at once: what was lost on the way is measured, not presumed."""

from pathlib import Path
from typing import Any

from lofa.adapters import Adapter
from lofa.adapters.formats import check_adapter_target
from lofa.cli.objects import pick_dtype
from lofa.cli.options import option
from lofa.errors import ConfigError

__all__ = ["check_export", "export_adapter", "overwrite"]

_EXACT = 1e-6
"""Below this distance two adapters are the same up to float32's rounding."""


def overwrite() -> Any:
    """The key of every command that has `out`."""
    return option(
        False, "replace what stands at `out`: a file, or a folder that this command wrote; else it is refused"
    )


def check_export(config: Any) -> None:
    """Refuses a wrong `dtype`, `rank` or `format` and an `out` that is not to be replaced, before anything is computed.

    Raises:
        ConfigError, AdapterFormatError, TargetError: what is wrong.
    """
    pick_dtype(config.dtype)
    if config.rank is not None and config.rank < 1:
        raise ConfigError(f"rank={config.rank}: an adapter has a rank of at least 1; leave it out to keep the rank")
    check_adapter_target(config.out, config.format, config.overwrite)


def export_adapter(adapter: Adapter, config: Any) -> str:
    """Writes `out` in `format`, `dtype` and at most `rank`, and reads it again. Returns what it is, in words."""
    out = Path(config.out)
    less = adapter if config.rank is None else adapter.reduced(config.rank)
    files = less.save(out, config.format, pick_dtype(config.dtype), config.overwrite)
    written = dict(item for file in files for item in Adapter.load(file).items())
    distance = adapter.distance(written)
    ranks = sorted({pair.rank for pair in less.values()})
    lost = "exact" if distance < _EXACT else f"off by {distance:.2g} of the update's norm"
    parts = f" in {' and '.join(file.name for file in files)}" if len(files) > 1 else ""
    return f"{config.format}, {len(less)} layers{parts}, rank {', '.join(map(str, ranks))}, {lost}"
