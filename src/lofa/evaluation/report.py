"""report.html: one page that needs no file beside it, written from what `evaluate` gave."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lofa.evaluation.charts import Points, interval_bar, line_chart, prompt_chart
from lofa.evaluation.curves import Curves
from lofa.evaluation.maps import LayerMaps
from lofa.evaluation.pictures import animation, heat_map
from lofa.evaluation.protocol import METRICS, Evaluation, PromptScores
from lofa.files import atomic_write

__all__ = ["write_curves", "write_report"]

_TITLES = {
    "fvd": "FVD ↓",
    "clip_t": "CLIP-T ↑",
    "denoising_loss": "held-out denoising loss ↓",
    "seconds": "seconds per adapter ↓",
}
_HIGHER = {"clip_t"}


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
        _section("Differences", _DIFFERENCES_NOTE, _differences(metrics)),
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
    _write(path, title, lead, _tiles(metrics), sections)


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
    "↓ lower is better, ↑ higher is better; the best method of a column is bold. Of the seconds, the range holds the "
    "least and the most measured."
)
_DIFFERENCES_NOTE = (
    "Each bar is the first method minus the second, with its 95 % interval; the dashed line is no difference. Coloured "
    "where the interval excludes 0."
)
_PROMPTS_NOTE = "Held-out denoising loss of each prompt's sibling clips, sorted by the loss of the base."
_CLIPS_NOTE = (
    "All methods start from the same noise and get the same caption, that of the scored sibling clip; the adapter was "
    "made from another clip's prompt."
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
    if key == "seconds":
        return "0" if value == 0 else f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _tiles(metrics: Mapping[str, Any]) -> str:
    tiles: list[tuple[str, str]] = []
    methods, differences = metrics["methods"], metrics["differences"]
    for name, share in metrics["gap_closed"].items():
        text = f"of the loss gap from base to LoRA closed by {name} ({share['low']:.0%} to {share['high']:.0%})"
        tiles.append((f"{share['value']:.0%}", text))
    if {"lora", "lofa"} <= set(methods) and methods["lofa"]["seconds"]["value"]:
        lora, lofa = methods["lora"]["seconds"], methods["lofa"]["seconds"]["value"]
        batch = f" ({lora['in_batch'] / lofa:,.0f}× in a batch)" if "in_batch" in lora else ""
        text = (
            f"faster than training one LoRA{batch}: {_number(lora['value'], 'seconds')} to {_number(lofa, 'seconds')}"
        )
        tiles.append((f"{lora['value'] / lofa:,.0f}×", text))
    for key in ("fvd", "clip_t"):
        if "lofa-base" in differences:
            difference = differences["lofa-base"][key]
            text = f"{_TITLES[key].split()[0]} of lofa against base, {_verdict(difference, key)[1]}"
            tiles.append((_signed(difference["value"]), text))
    return "".join(f'<div class="tile"><b>{value}</b><span>{escape(text)}</span></div>' for value, text in tiles)


def _verdict(difference: Mapping[str, float], key: str) -> tuple[str, str]:
    """Style class and words."""
    if not (difference["low"] > 0 or difference["high"] < 0):
        return "open", "not settled"
    better = (difference["value"] > 0) == (key in _HIGHER)
    return ("better", "better") if better else ("worse", "worse")


def _head(cells: Sequence[str]) -> str:
    return f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in cells)}</tr></thead>"


def _methods(evaluation: Evaluation) -> str:
    methods = evaluation.metrics["methods"]
    best = {}
    for key in METRICS:
        values = [row[key]["value"] for name, row in methods.items() if key != "seconds" or name != "base"]
        best[key] = (max if key in _HIGHER else min)(values, default=None)
    rows = []
    for name, row in methods.items():
        cells = []
        for key in METRICS:
            interval = row[key]
            small = f"{_number(interval['low'], key)} to {_number(interval['high'], key)}"
            if "in_batch" in interval:
                small += f"<br>{_number(interval['in_batch'], key)} each in a batch"
            mark = ' class="best"' if interval["value"] == best[key] and len(methods) > 1 else ""
            value = _number(interval["value"], key)
            cells.append(f"<td{mark}>{value}<small>{small if value != '0' else '&nbsp;'}</small></td>")
        rows.append(f'<tr><th><i class="dot {escape(name)}"></i>{escape(name)}</th>{"".join(cells)}</tr>')
    real = evaluation.metrics["real"]["clip_t"]
    value, low, high = (_number(real[end], "clip_t") for end in ("value", "low", "high"))
    rows.append(
        '<tr class="real"><th><i class="dot real"></i>real clips</th><td>0</td>'
        f"<td>{value}<small>{low} to {high}</small></td><td></td><td></td></tr>"
    )
    head = _head(["", *(_TITLES[key] for key in METRICS)])
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _differences(metrics: Mapping[str, Any]) -> str:
    differences = metrics["differences"]
    if not differences:
        return ""
    keys = METRICS[:3]
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
        rows.append(f"<tr><th>{escape(pair.replace('-', ' − '))}</th>{''.join(cells)}</tr>")
    head = _head(["", *(_TITLES[key] for key in keys)])
    return f'<div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _prompts(prompts: Sequence[PromptScores]) -> str:
    methods = list(prompts[0].loss)
    ordered = sorted(prompts, key=lambda scores: scores.loss[methods[0]])
    chart = prompt_chart(
        "denoising loss",
        [scores.case.group for scores in ordered],
        {name: [scores.loss[name] for scores in ordered] for name in methods},
    )
    head = _head(
        [
            "class",
            "prompt",
            *(f"loss {escape(name)}" for name in methods),
            *(f"CLIP-T {escape(name)}" for name in methods),
        ]
    )
    rows = "".join(
        f"<tr><td>{escape(scores.case.group)}</td><td>{escape(scores.case.anchor.caption)}</td>"
        + "".join(f"<td>{values[name]:.4f}</td>" for values in (scores.loss, scores.clip_t) for name in methods)
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
    held_out = evaluation.metrics["held_out"]
    scores = {
        "denoising loss": "flow-matching error on the sibling clips under their own captions, at stratified noise "
        "levels and noise that are the same for all methods; mean over a prompt's clips, then over prompts",
        "FVD": f"Fréchet distance of {held_out['feature_size']} video features between {held_out['generated']} "
        "generated clips and the real clips they stand for, these sent through the backbone's autoencoder; it depends "
        "on the feature network and on the number of clips, so compare within this table only; its interval is the "
        "bootstrap's spread about the value",
        "CLIP-T": "mean cosine of a clip's frames and its caption",
    }
    rows = {**own, **scores, **facts}
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows.items()) + "</dl>"
