"""The closing table: every method with its steering margin, and every difference with its 95 % interval."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from lofa.evaluation.protocol import Evaluation
from lofa.evaluation.summary import SECONDS
from lofa.metrics import METRICS

__all__ = ["closing_table"]


def closing_table(evaluation: Evaluation) -> Table:
    """Rows of the methods, then of the differences that no shuffled adapter is part of (these are in metrics.json)."""
    metrics, held_out = evaluation.metrics, evaluation.metrics["held_out"]
    keys = list(next(iter(metrics["methods"].values())))
    title = f"{held_out['prompts']} held-out prompts of {held_out['classes']} classes, 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")  # a narrow terminal cuts nothing off
    for heading in (*(key if key == SECONDS else METRICS[key].arrow for key in keys), "steering margin ↑"):
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in metrics["methods"].items():
        margin = _cell(metrics["steering_margin"].get(name), 4)
        table.add_row(name, *(_cell(row[key], _digits(key)) for key in keys), margin)
    table.add_section()
    for later, earlier in evaluation.pairs:
        row = metrics["differences"][f"{later}-{earlier}"]
        table.add_row(f"{later}\n− {earlier}", *(_cell(row[key], _digits(key)) for key in keys), "")
    mixed = {method.name for method in evaluation.methods if method.role == "shuffled"}
    closed = {name: share for name, share in metrics["gap_closed"].items() if name not in mixed}
    if closed:
        to = next(iter(closed.values()))["to"]
        shares = ", ".join(f"{name} {share['value']:.0%}" for name, share in closed.items())
        table.caption = f"of the loss gap from base to {to}: {shares}"
    return table


def _digits(key: str) -> int | None:
    return None if key == SECONDS else METRICS[key].digits


def _cell(value: Mapping[str, Any] | None, digits: int | None) -> str:
    """A value over its interval; None digits: three that count."""
    form = ".3g" if digits is None else f".{digits}f"
    return "" if value is None else f"{value['value']:{form}}\n[{value['low']:{form}}, {value['high']:{form}}]"
