"""lofa inspect: what an adapter, a sample, a data set or a run holds."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from lofa import workflows
from lofa.cli.commands import InspectConfig
from lofa.errors import ConfigError
from lofa.targets import check_target

__all__ = ["inspect"]


def inspect(config: InspectConfig) -> dict[str, str]:
    """Prints a table of what is found at `path`."""
    path, out = Path(config.path), None if config.out is None else Path(config.out)
    if out is not None and out.suffix.lower() != ".png":
        raise ConfigError(f"out={out}: the picture is a .png")
    if out is not None:
        check_target(out, config.overwrite)
    facts, parts = workflows.inspect(path, config.model, config.tau, out)
    table = Table(title=str(path), show_header=False, title_justify="left")
    for name, value in (facts | (parts if config.layers else {})).items():
        table.add_row(name, value)
    Console().print(table, markup=False)
    return facts
