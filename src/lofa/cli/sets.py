"""Commands that make what training needs: prepare, zoo, pretrain."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from lofa import pretrain as recipes
from lofa.backbones import Backbone
from lofa.cli.commands import PrepareConfig, PretrainConfig, ZooConfig
from lofa.cli.objects import find_set, open_backbone
from lofa.cli.pipeline import PipelineConfig
from lofa.data import PrepareReport
from lofa.data import prepare as prepare_set
from lofa.errors import DataError
from lofa.zoo import ZooAudit, ZooReport, build_zoo, verify_zoo

__all__ = ["prepare", "pretrain", "train_zoo", "zoo"]


def prepare(config: PrepareConfig) -> PrepareReport:
    """Clips, captions and joints -> a data set of encoded samples."""
    return prepare_set(config.source, find_set(config), open_backbone(config), config.prepare)


def pretrain(config: PretrainConfig) -> None:
    """Makes the shipped tiny models, or what is missing of them."""
    recipes.pretrain(Path(config.out), config.recipe, Console())


def zoo(config: ZooConfig) -> ZooReport | ZooAudit:
    """Trains the LoRAs of the set `data`, or of one shard of them, or checks them."""
    backbone = open_backbone(config)
    if config.action == "verify":
        return _check_zoo(config, backbone)
    return train_zoo(config, backbone, retry=config.action == "retry")


def train_zoo(config: PipelineConfig, backbone: Backbone, retry: bool = False) -> ZooReport:
    """Trains what is missing of a zoo and says how it went.

    Raises:
        DataError: samples that can't be read, by name, after the others were trained; or no LoRA came to anything.
    """
    set_dir = find_set(config)
    folder = set_dir / "zoo"
    report = build_zoo(set_dir, backbone, config.zoo, retry=retry)
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


def _check_zoo(config: ZooConfig, backbone: Backbone) -> ZooAudit:
    """Checks a zoo and prints a table and a line a problem (DataError where there are problems)."""
    folder = find_set(config) / "zoo"
    audit = verify_zoo(find_set(config), backbone, config.zoo)
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
