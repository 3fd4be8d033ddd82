"""The log of a run as metrics.csv, which a resumed run continues as if it had never stopped."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lofa.files import atomic_write, remove_temporaries

__all__ = ["CsvLog"]


class CsvLog(Logger):
    """Writes one row a log entry, whole or not at all, and can go back to an earlier row.

    Lightning's CSVLogger deletes the log of a run that is resumed, and a kill while it writes leaves half a file.

    Args:
        save_dir: of the run
        name: folder in it
        version: folder in that; the file is `metrics.csv`
        flush_every: entries between writes; a checkpoint writes too
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "csv", flush_every: int = 20) -> None:
        super().__init__()
        self._folder, self._name, self._version = Path(save_dir) / name / version, name, version
        self._flush_every = flush_every
        self._rows: list[dict[str, str]] = []
        self._written = 0

    @property
    def name(self) -> str:
        """Folder in the run's."""
        return self._name

    @property
    def version(self) -> str:
        """Folder in that of `name`."""
        return self._version

    @property
    def log_dir(self) -> str:
        """Folder of the file."""
        return str(self._folder)

    @property
    def file(self) -> Path:
        """Where the rows go."""
        return self._folder / "metrics.csv"

    @property
    @rank_zero_experiment
    def experiment(self) -> list[dict[str, str]]:
        """The rows."""
        return self._rows

    @property
    def rows(self) -> int:
        """Logged until now. (With a `__len__`, Lightning takes an empty log for none.)"""
        return len(self._rows)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object) -> None:
        """Nothing: a run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds a row."""
        self._rows.append({name: str(float(value)) for name, value in metrics.items()} | {"step": str(step)})
        if len(self._rows) - self._written >= self._flush_every:
            self.save()

    @rank_zero_only
    def rewind(self, rows: int | None) -> None:
        """Goes on after the first `rows` rows of the file, where there is one; None: after all of them."""
        remove_temporaries(self._folder, lambda: True)
        if not self.file.is_file():
            return
        with self.file.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))[:rows]
        self._rows[:] = [{name: value for name, value in line.items() if value} for line in lines]
        self._written = 0

    @rank_zero_only
    def save(self) -> None:
        """Writes all rows, under one column for each name that one of them has."""
        if self._written == len(self._rows):
            return
        names = sorted({name for row in self._rows for name in row})
        with atomic_write(self.file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        self._written = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is not written yet."""
        self.save()
