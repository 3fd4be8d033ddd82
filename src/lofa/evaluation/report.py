"""report.html: one page that needs no file beside it, written from what `evaluate` gave. Its shape: page.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lofa.evaluation.charts import COLOURS, animation, heat_map, line_chart, prompt_chart
from lofa.evaluation.curves import Series
from lofa.evaluation.maps import LayerMaps
from lofa.evaluation.methods import Method
from lofa.evaluation.protocol import Evaluation
from lofa.evaluation.summary import SECONDS
from lofa.files import atomic_write
from lofa.metrics import METRICS

__all__ = ["write_curves", "write_report"]

_MARGIN = "steering_margin"
_HEADINGS = {SECONDS: "seconds per adapter ↓", _MARGIN: "steering margin ↑"}
_REAL = "#98a2b3"


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    maps: Mapping[str, Sequence[LayerMaps]] | None = None,
    curves: Mapping[str, Series] | None = None,
    facts: Mapping[str, str] | None = None,
    fps: float = 8.0,
) -> None:
    """Writes the page.

    Args:
        path: of the .html file.
        evaluation: what to show.
        maps: prompt -> response maps of some layers.
        curves: title -> lines over training steps.
        facts: what else a reader needs to repeat the run, name -> text (command, seed, backbone, versions).
        fps: of the clips.
    """
    held_out, keys = evaluation.metrics["held_out"], list(next(iter(evaluation.metrics["methods"].values())))
    ordered = sorted(evaluation.prompts, key=lambda one: next(iter(one.losses.values())))
    losses = {name: [one.losses[name] for one in ordered] for name in ordered[0].losses}
    differences = _differences(evaluation, [key for key in keys if key != SECONDS])
    _write(
        path,
        title="LoFA: held-out evaluation",
        lead=f"{held_out['prompts']} prompts of {held_out['classes']} held-out classes, scored on {held_out['clips']} "
        "sibling clips that no method has seen. Intervals are 95 %, by paired bootstrap over prompts.",
        tiles=_tiles(evaluation),
        columns=[*keys[:-1], *([_MARGIN] if evaluation.metrics[_MARGIN] else []), keys[-1]],
        methods=_methods(evaluation, keys),
        differences=differences,
        reach={
            key: 1.08 * max(max(abs(row[key]["low"]), abs(row[key]["high"]), 1e-12) for row in differences.values())
            for key in next(iter(differences.values()), ())
        },
        prompts=ordered,
        prompt_chart=prompt_chart([one.case.group for one in ordered], losses),
        scores=[(key, name) for key in ordered[0].scores for name in losses],
        clips=[(caption, list(one), animation(list(one.values()), fps)) for caption, one in evaluation.clips],
        maps=maps or {},
        charts=[line_chart(heading, series) for heading, series in (curves or {}).items()],
        facts=_facts(evaluation, keys) | dict(facts or {}),
    )


def write_curves(path: str | Path, title: str, charts: Mapping[str, Series], lead: str = "") -> None:
    """Writes a page of charts alone: heading -> name -> (step, value) of each line."""
    drawn = [line_chart(heading, series, size=(6.6, 3.6)) for heading, series in charts.items()]
    empty: dict[str, Any] = dict.fromkeys(("tiles", "methods", "differences", "prompts", "clips", "facts"))
    _write(path, title=title, lead=lead, charts=drawn, maps={}, **empty)


def _write(path: str | Path, **values: Any) -> None:
    environment = Environment(autoescape=True)
    environment.filters |= {
        "number": _number, "signed": _signed, "heading": _heading, "named": _named, "heat_map": heat_map,
    }  # fmt: skip
    page = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    with atomic_write(path) as temporary:
        temporary.write_text(page.render(values), encoding="utf-8")


def _number(value: float, key: str) -> str:
    if key == _MARGIN:
        return _signed(value)
    if key == SECONDS:
        return "0" if value == 0 else f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _signed(value: float, form: str = "+.3g") -> str:
    return f"{value:{form}}".replace("-", "−")


def _heading(key: str) -> str:
    return _HEADINGS.get(key) or METRICS[key].arrow


def _named(key: str) -> str:
    return METRICS[key].title


def _methods(evaluation: Evaluation, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> colour and cell by column, the best of each marked; the real clips last."""
    metrics = evaluation.metrics
    rows: dict[str, dict[str, Any]] = {}
    for place, (name, row) in enumerate(metrics["methods"].items()):
        cells = {**row, _MARGIN: metrics[_MARGIN].get(name, {})}
        rows[name] = {"colour": COLOURS[place % len(COLOURS)], "cells": {key: dict(cells[key]) for key in cells}}
    for key in keys if len(rows) > 1 else ():
        candidates = [
            rows[one.name]["cells"][key] for one in evaluation.methods if key != SECONDS or one.role != "base"
        ]
        best = max if key != SECONDS and METRICS[key].higher_is_better else min
        value = best((cell["value"] for cell in candidates), default=None)
        for cell in candidates:
            cell["best"] = cell["value"] == value
    real = {key: metrics["real"].get(key, {}) for key in (*keys, _MARGIN)}
    return rows | {"real clips": {"colour": _REAL, "cells": real, "real": True}}


def _differences(evaluation: Evaluation, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """ "later − earlier" -> metric -> interval with its verdict; those of shuffled adapters left out."""
    return {
        f"{later} − {earlier}": {
            key: {**row[key], "verdict": _verdict(row[key], key)}
            for row in [evaluation.metrics["differences"][f"{later}-{earlier}"]]
            for key in keys
        }
        for later, earlier in evaluation.pairs
    }


def _verdict(difference: Mapping[str, float], key: str) -> tuple[str, str]:
    """Style class and words."""
    if difference["low"] <= 0 <= difference["high"]:
        return "open", "not settled"
    better = (difference["value"] > 0) == METRICS[key].higher_is_better
    return ("better", "better") if better else ("worse", "worse")


def _tiles(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The headline figures: gap closed and steering margin of what was predicted, its speed, and what is seen."""
    metrics = evaluation.metrics
    tiles: list[tuple[str, str]] = []
    predicted = [method for method in evaluation.methods if method.role == "predicted"]
    for method in predicted:
        share, margin = (metrics[part].get(method.name) for part in ("gap_closed", _MARGIN))
        if share:
            text = f"of the loss gap from base to {share['to']} closed by {method.name}, {_ends(share, '.0%')}"
            tiles.append((f"{share['value']:.0%}", text))
        if margin:
            text = f"steering margin of {method.name}: loss with another class's adapter minus own, {_ends(margin)}"
            tiles.append((_signed(margin["value"]), text))
    for method in predicted[:1]:
        tiles += _speed(evaluation, method) + _seen(evaluation, method)
    return tiles


def _ends(interval: Mapping[str, Any], form: str = "+.3g") -> str:
    return f"{_signed(interval['low'], form)} to {_signed(interval['high'], form)}"


def _speed(evaluation: Evaluation, method: Method) -> list[tuple[str, str]]:
    """How much faster an adapter is predicted than one that is trained for a prompt alone."""
    trained = next((one for one in evaluation.methods if one.role == "trained" and one.by_prompt), None)
    if trained is None or not method.timing.median:
        return []
    slow, quick = trained.timing, method.timing.median
    batch = "" if slow.in_batch is None else f" ({slow.in_batch / quick:,.0f}× in a batch)"
    times = f"{_number(slow.median, SECONDS)} to {_number(quick, SECONDS)}"
    return [(f"{slow.median / quick:,.0f}×", f"faster than training one LoRA{batch}: {times}")]


def _seen(evaluation: Evaluation, method: Method) -> list[tuple[str, str]]:
    """What generated clips score, against the best trained LoRA, or the base where none was trained."""
    closed = evaluation.metrics["gap_closed"].get(method.name)
    base = next((one.name for one in evaluation.methods if one.role == "base"), None)
    other = closed["to"] if closed else base
    row = evaluation.metrics["differences"].get(f"{method.name}-{other}", {})
    return [
        (_signed(one["value"]), f"{_named(key)} of {method.name} against {other}, {_verdict(one, key)[1]}")
        for key, one in row.items()
        if key != SECONDS and "losses" not in METRICS[key].needs
    ]


def _facts(evaluation: Evaluation, keys: Sequence[str]) -> dict[str, str]:
    sizes = evaluation.metrics["held_out"]["feature_size"]
    own = {method.name: f"{method.about}; {method.timing.how}" for method in evaluation.methods}
    return own | {
        _named(key): METRICS[key].about + (f"; {sizes[key]} features" if key in sizes else "")
        for key in keys
        if key != SECONDS
    }
