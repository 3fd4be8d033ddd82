"""report.html: one page that needs no file beside it, written from what `evaluate` gave."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lofa.evaluation.charts import Points, interval_bar, line_chart, prompt_chart
from lofa.evaluation.curves import Curves
from lofa.evaluation.maps import LayerMaps
from lofa.evaluation.methods import Method
from lofa.evaluation.pictures import animation, heat_map
from lofa.evaluation.protocol import Evaluation, PromptScores
from lofa.evaluation.summary import SECONDS
from lofa.files import atomic_write
from lofa.metrics import METRICS

__all__ = ["write_curves", "write_report"]

_SECONDS = "seconds per adapter ↓"
_MARGIN = "steering margin ↑"


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    *,
    title: str = "LoFA: held-out evaluation",
    maps: Mapping[str, Sequence[LayerMaps]] | None = None,
    curves: Sequence[Curves] = (),
    facts: Mapping[str, str] | None = None,
    fps: float = 8.0,
) -> None:
    """Writes the page.

    Args:
        path: of the .html file.
        evaluation: what to show.
        title: of the page.
        maps: prompt -> response maps of some layers.
        curves: training curves.
        facts: what else a reader needs to repeat the run, name -> text (command, seed, backbone, versions).
        fps: of the clips.
    """
    metrics = evaluation.metrics
    sections = [
        _section("Methods", _METHODS_NOTE, _methods(evaluation)),
        _section("Differences", _DIFFERENCES_NOTE, _differences(evaluation)),
        _section("Prompt by prompt", _PROMPTS_NOTE, _prompts(evaluation.prompts)),
        _section("Clips", _CLIPS_NOTE, _clips(evaluation, fps)),
        *(_section(f"Response maps: {prompt}", _MAPS_NOTE, _maps(layers)) for prompt, layers in (maps or {}).items()),
        _section("Training", "", f'<div class="charts">{"".join(line_chart(c.title, c.series) for c in curves)}</div>')
        if curves
        else "",
        _section("How it was measured", "", _facts(evaluation, facts or {})),
    ]
    held_out = metrics["held_out"]
    lead = (
        f"{held_out['prompts']} prompts of {held_out['classes']} held-out classes, scored on {held_out['clips']} "
        "sibling clips that no method has seen. Intervals are 95 %, by paired bootstrap over prompts."
    )
    _write(path, title, lead, _tiles(evaluation), sections)


def write_curves(path: str | Path, title: str, charts: Mapping[str, Mapping[str, Points]], lead: str = "") -> None:
    """Writes a page of charts alone: heading -> name -> (step, value) of each line."""
    drawn = "".join(line_chart(heading, series, width=660, height=340) for heading, series in charts.items())
    _write(path, title, lead, "", [f'<div class="charts">{drawn}</div>'])


def _write(path: str | Path, title: str, lead: str, tiles: str, sections: Sequence[str]) -> None:
    page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(title), lead=lead, tiles=tiles, sections="\n".join(sections))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


_METHODS_NOTE = (
    "↓ lower is better, ↑ higher is better; the best method of a column is bold. The steering margin is the denoising "
    "loss with the adapter of another class minus that with one's own: 0 where the prompt does not matter. Of the "
    "seconds, the range holds the least and the most measured."
)
_DIFFERENCES_NOTE = (
    "Each bar is the first method minus the second, with its 95 % interval; the dashed line is no difference. Coloured "
    "where the interval excludes 0. Those of shuffled adapters stand in metrics.json."
)
_PROMPTS_NOTE = "Held-out denoising loss of each prompt's sibling clips, sorted by the loss of the base."
_CLIPS_NOTE = (
    "All methods start from the same noise and get the same caption, that of the scored clip; what each adapter was "
    "made from stands below."
)
_MAPS_NOTE = (
    "Bright: the weight changes by more than tau. Left, the LoRA trained on the class; middle, stage I's probability; "
    "right, the map that the predicted adapter implies. Beside a layer's name: the cosine of predicted to true map, "
    "and what a constant map would reach."
)


def _section(title: str, note: str, body: str) -> str:
    return (
        f"<section><h2>{escape(title)}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"
        if body
        else ""
    )


def _number(value: float, key: str) -> str:
    if key == SECONDS:
        return "0" if value == 0 else f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _title(key: str) -> str:
    return _SECONDS if key == SECONDS else METRICS[key].arrow


def _tiles(evaluation: Evaluation) -> str:
    """The headline figures: gap closed and steering margin of what was predicted, its speed, and what is seen."""
    metrics = evaluation.metrics
    tiles: list[tuple[str, str]] = []
    predicted = [method for method in evaluation.methods if method.role == "predicted"]
    for method in predicted:
        share, margin = (metrics[part].get(method.name) for part in ("gap_closed", "steering_margin"))
        if share:
            text = f"of the loss gap from base to {share['to']} closed by {method.name}, {_ends(share, '.0%')}"
            tiles.append((f"{share['value']:.0%}", text))
        if margin:
            text = f"steering margin of {method.name}: loss with another class's adapter minus own, {_ends(margin)}"
            tiles.append((_signed(margin["value"]), text))
    for method in predicted[:1]:
        tiles += _speed(evaluation, method) + _seen(evaluation, method)
    return "".join(f'<div class="tile"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in tiles)


def _ends(interval: Mapping[str, Any], form: str = "+.3g") -> str:
    return f"{interval['low']:{form}} to {interval['high']:{form}}".replace("-", "−")


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
        (
            _signed(difference["value"]),
            f"{METRICS[key].title} of {method.name} against {other}, {_verdict(difference, key)[1]}",
        )
        for key, difference in row.items()
        if key != SECONDS and "losses" not in METRICS[key].needs
    ]


def _verdict(difference: Mapping[str, float], key: str) -> tuple[str, str]:
    """Style class and words."""
    if not (difference["low"] > 0 or difference["high"] < 0):
        return "open", "not settled"
    better = (difference["value"] > 0) == METRICS[key].higher_is_better
    return ("better", "better") if better else ("worse", "worse")


def _head(cells: Sequence[str]) -> str:
    return f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in cells)}</tr></thead>"


def _cell(interval: Mapping[str, Any] | None, key: str, best: bool = False) -> str:
    if interval is None:
        return "<td></td>"
    small = f"{_number(interval['low'], key)} to {_number(interval['high'], key)}"
    if "in_batch" in interval:
        small += f"<br>{_number(interval['in_batch'], key)} each in a batch"
    value = _number(interval["value"], key)
    return f"<td{' class=best' if best else ''}>{value}<small>{small if value != '0' else '&nbsp;'}</small></td>"


def _methods(evaluation: Evaluation) -> str:
    metrics = evaluation.metrics
    methods, margins = metrics["methods"], metrics["steering_margin"]
    keys = list(next(iter(methods.values())))
    best = {}
    for key in keys:
        values = [methods[one.name][key]["value"] for one in evaluation.methods if key != SECONDS or one.role != "base"]
        best[key] = (max if key != SECONDS and METRICS[key].higher_is_better else min)(values, default=None)
    rows = []
    for place, (name, row) in enumerate(methods.items()):
        cells = [_cell(row[key], key, row[key]["value"] == best[key] and len(methods) > 1) for key in keys]
        cells.insert(-1, _cell(margins.get(name), "") if margins else "")
        rows.append(f'<tr><th><i class="dot method-{place}"></i>{escape(name)}</th>{"".join(cells)}</tr>')
    cells = [_cell(metrics["real"].get(key), key) for key in keys]
    cells.insert(-1, "<td></td>" if margins else "")
    rows.append(f'<tr class="real"><th><i class="dot real"></i>real clips</th>{"".join(cells)}</tr>')
    titles = [_title(key) for key in keys]
    if margins:
        titles.insert(-1, _MARGIN)
    head = _head(["", *titles])
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _differences(evaluation: Evaluation) -> str:
    mixed = {method.name for method in evaluation.methods if method.role == "shuffled"}
    names = [method.name for method in evaluation.methods if method.name not in mixed]
    pairs = [(later, earlier) for place, later in enumerate(names) for earlier in names[:place]]
    differences = {pair: evaluation.metrics["differences"]["-".join(pair)] for pair in pairs}
    if not differences:
        return ""
    keys = [key for key in next(iter(differences.values())) if key != SECONDS]
    reach = {
        key: 1.08 * max(max(abs(row[key]["low"]), abs(row[key]["high"]), 1e-12) for row in differences.values())
        for key in keys
    }
    rows = []
    for pair, row in differences.items():
        cells = []
        for key in keys:
            interval = row[key]
            style, words = _verdict(interval, key)
            bar = interval_bar(interval["value"], interval["low"], interval["high"], reach[key], style)
            cells.append(
                f'<td class="{style}">{_signed(interval["value"])} <span>{words}</span>{bar}'
                f"<small>{_signed(interval['low'])} to {_signed(interval['high'])}</small></td>"
            )
        rows.append(f"<tr><th>{escape(' − '.join(pair))}</th>{''.join(cells)}</tr>")
    head = _head(["", *(_title(key) for key in keys)])
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _prompts(prompts: Sequence[PromptScores]) -> str:
    methods, keys = list(prompts[0].losses), list(prompts[0].scores)
    ordered = sorted(prompts, key=lambda scores: scores.losses[methods[0]])
    chart = prompt_chart(
        "denoising loss",
        [scores.case.group for scores in ordered],
        {name: [scores.losses[name] for scores in ordered] for name in methods},
    )
    head = _head(["class", "prompt", *(f"{METRICS[key].title} {escape(name)}" for key in keys for name in methods)])
    rows = "".join(
        f"<tr><td>{escape(scores.case.group)}</td><td>{escape(scores.case.anchor.caption)}</td>"
        + "".join(f"<td>{_number(scores.scores[key][name], key)}</td>" for key in keys for name in methods)
        + "</tr>"
        for scores in ordered
    )
    table = f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'
    return f"{chart}<details><summary>All prompts as a table</summary>{table}</details>"


def _clips(evaluation: Evaluation, fps: float) -> str:
    figures = [
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<div class="names">{"".join(f"<span>{escape(name)}</span>" for name in clips)}</div>'
        f'<img alt="{escape(", ".join(clips))}" src="{animation(list(clips.values()), fps)}"></figure>'
        for caption, clips in evaluation.clips
    ]
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


def _maps(layers: Sequence[LayerMaps]) -> str:
    figures = []
    for layer in layers:
        panels = {"true LoRA": layer.truth, "stage I": layer.predicted, "stage II": layer.implied}
        row = "".join(
            f'<div><img alt="{name}" src="{heat_map(values)}">{name}</div>' for name, values in panels.items()
        )
        cosines = f"<span>{layer.cosine:.2f} ({layer.constant_cosine:.2f})</span>"
        caption = f"<figcaption>{escape(layer.layer)}{cosines}</figcaption>"
        figures.append(f'<figure>{caption}<div class="row">{row}</div></figure>')
    return f'<div class="maps">{"".join(figures)}</div>'


def _facts(evaluation: Evaluation, facts: Mapping[str, str]) -> str:
    own = {method.name: f"{method.about}; {method.timing.how}" for method in evaluation.methods}
    keys = [key for key in next(iter(evaluation.metrics["methods"].values())) if key != SECONDS]
    sizes = evaluation.metrics["held_out"]["feature_size"]
    scores = {
        METRICS[key].title: METRICS[key].about + (f"; {sizes[key]} features" if key in sizes else "") for key in keys
    }
    rows = {**own, **scores, **facts}
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows.items()) + "</dl>"
