"""The zoo of a prepared set, trained or checked, with a report in words."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from lofa.backbones import Backbone
from lofa.errors import DataError
from lofa.paths import Place
from lofa.zoo import ZooAudit, ZooOptions, ZooReport, build_zoo, verify_zoo

__all__ = ["check_zoo", "train_zoo"]


def train_zoo(set_dir: Place, backbone: Backbone, options: ZooOptions, retry: bool = False) -> ZooReport:
    """Trains what is missing of a zoo and says how it went.

    Raises:
        DataError: samples that can't be read, by name, after the others were trained; or no LoRA came to anything.
    """
    folder = set_dir / "zoo"
    report = build_zoo(set_dir, backbone, options, retry=retry)
    print(f"{folder}: {report.trained} LoRAs trained, {report.present} were there already")
    if report.trained:
        speed = f"{report.loras_per_hour:,.0f} LoRAs an hour"
        print(f"denoising loss {report.first_loss:.4f} -> {report.final_loss:.4f} on average; {speed}")
    if report.quarantined:
        print(f"in quarantine, not used for training (action=retry tries again): {_first(report.quarantined)}")
    if report.unreadable:
        raise DataError(f"{folder}: no LoRA for {_first(report.unreadable)}. The others are done")
    if report.quarantined and not report.trained + report.present:
        raise DataError(f"{folder}: no LoRA came to anything: {_first(report.quarantined)}")
    return report


def check_zoo(set_dir: Place, backbone: Backbone, options: ZooOptions) -> ZooAudit:
    """Checks a zoo and prints a table and a line a problem (DataError where there are problems)."""
    folder = set_dir / "zoo"
    audit = verify_zoo(set_dir, backbone, options)
    table = Table("check", Column("looked at", justify="right"), Column("problems", justify="right"), title=str(folder))
    for name, count in audit.looked_at.items():
        table.add_row(name, str(count), str(sum(check == name for check, _, _ in audit.problems)))
    Console().print(table, markup=False)
    for _, path, problem in audit.problems:
        print(f"{path}: {problem}")
    if audit.quarantined:
        print(f"in quarantine, not used for training: {_first(audit.quarantined)}")
    if audit.living:
        print(f"being built now: shard {', '.join(audit.living)}")
    if audit.problems:
        raise DataError(f"{folder}: {len(audit.problems)} problems, listed above")
    return audit


def _first(named: Sequence[tuple[str, str]]) -> str:
    """The first of (name, reason) and how many more there are."""
    (name, reason), *others = named
    return f"{name}: {reason}" + (f", and {len(others)} more" if others else "")
