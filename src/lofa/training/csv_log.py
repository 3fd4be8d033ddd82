"""The log of a run as metrics.csv, which a resumed run continues as if it had never stopped."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lofa.files import atomic_write, remove_temporaries

__all__ = ["CsvLog"]


class CsvLog(Logger):
    """Writes one row a log entry, whole or not at all, and can go back to an earlier row.

    Lightning's CSVLogger deletes the log of a run that is resumed, and a kill while it writes leaves half a file.

    Args:
        save_dir: of the run; the file is `<name>/<version>/metrics.csv` in it
        flush_every: entries between writes; a checkpoint writes too
    """

    name = ""
    version = ""

    def __init__(self, save_dir: str, name: str = "", version: str = "csv", flush_every: int = 20) -> None:
        super().__init__()
        self.name, self.version = name, version
        self.file = Path(save_dir) / name / version / "metrics.csv"
        self.rows: list[dict[str, str]] = []
        self._flush_every = flush_every
        self._written = 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object) -> None:
        """Nothing: a run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row."""
        self.rows.append({name: str(float(value)) for name, value in metrics.items()} | {"step": str(step)})
        if len(self.rows) - self._written >= self._flush_every:
            self.save()

    @rank_zero_only
    def rewind(self, rows: int | None) -> None:
        """Goes on after the first `rows` rows of the file, where there is one; None: after all of them."""
        remove_temporaries(self.file.parent, lambda: True)
        if not self.file.is_file():
            return
        with self.file.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))[:rows]
        self.rows[:] = [{name: value for name, value in line.items() if value} for line in lines]
        self._written = 0

    @rank_zero_only
    def save(self) -> None:
        """Writes all rows, under one column for each name that one of them has."""
        if self._written == len(self.rows):
            return
        names = sorted({name for row in self.rows for name in row})
        with atomic_write(self.file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        self._written = len(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is not written yet."""
        self.save()
