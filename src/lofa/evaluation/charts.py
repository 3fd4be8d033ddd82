"""Small charts as inline SVG; colours come from the page's style, so they follow its light and dark theme."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["Points", "interval_bar", "line_chart", "prompt_chart"]

Points = Sequence[tuple[float, float]]


def interval_bar(value: float, low: float, high: float, reach: float, verdict: str, width: int = 190) -> str:
    """An interval on an axis from -reach to reach with 0 in the middle.

    Args:
        verdict: "better", "worse" or "open", which the style colours.
    """

    def x(number: float) -> float:
        return width / 2 * (1 + max(-1.0, min(1.0, number / reach)))

    return (
        f'<svg class="interval {verdict}" viewBox="0 0 {width} 18" width="{width}" height="18" role="img">'
        f'<line class="zero" x1="{width / 2}" y1="0" x2="{width / 2}" y2="18"/>'
        f'<line class="range" x1="{x(low):.1f}" y1="9" x2="{x(high):.1f}" y2="9"/>'
        f'<circle cx="{x(value):.1f}" cy="9" r="4"/></svg>'
    )


def line_chart(title: str, series: Mapping[str, Points], width: int = 330, height: int = 190) -> str:
    """Lines over training steps; a cloud of raw points gets a smoothed line over it. Non-finite values are left out."""
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    steps = [step for points in finite.values() for step, _ in points]
    values = [value for points in finite.values() for _, value in points]
    if not values:
        return ""
    axes = _Axes(steps, values, width, height)
    lines = []
    for place, points in enumerate(finite.values()):
        if len(points) > 60:
            lines.append(f'<polyline class="raw line{place}" points="{axes.path(points)}"/>')
            points = _smooth(points)
        lines.append(f'<polyline class="line{place}" points="{axes.path(points)}"/>')
    legend = "".join(f'<span class="key line{place}">{escape(name)}</span>' for place, name in enumerate(finite))
    return (
        f'<figure class="chart"><figcaption>{escape(title)} {legend}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img">{axes.frame()}{"".join(lines)}</svg></figure>'
    )


def prompt_chart(title: str, names: Sequence[str], rows: Mapping[str, Sequence[float]], width: int = 1000) -> str:
    """A dot for each prompt and method, prompts side by side in the order given, with a tooltip.

    Args:
        names: of the prompts.
        rows: method -> value of each prompt.
    """
    height = 230
    values = [value for row in rows.values() for value in row]
    axes = _Axes([0.0, max(1.0, len(names) - 1.0)], values, width, height, step_ticks=False)
    marks = []
    for place, name in enumerate(names):
        column = [row[place] for row in rows.values()]
        x = axes.x(place)
        ends = f'y1="{axes.y(min(column)):.1f}" y2="{axes.y(max(column)):.1f}"'
        marks.append(f'<line class="stem" x1="{x:.1f}" x2="{x:.1f}" {ends}/>')
        for colour, (method, row) in enumerate(rows.items()):
            tip = f"{name}: {method} {row[place]:.4g}"
            marks.append(
                f'<circle class="method-{colour}" cx="{x:.1f}" cy="{axes.y(row[place]):.1f}" r="4.5">'
                f"<title>{escape(tip)}</title></circle>"
            )
    legend = "".join(f'<span class="key method-{colour}">{escape(method)}</span>' for colour, method in enumerate(rows))
    return (
        f'<figure class="chart wide"><figcaption>{escape(title)} {legend}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img">{axes.frame()}{"".join(marks)}</svg></figure>'
    )


class _Axes:
    """Maps steps and values to the drawing, and draws its grid."""

    def __init__(
        self, steps: Sequence[float], values: Sequence[float], width: int, height: int, step_ticks: bool = True
    ) -> None:
        self.left, self.right, self.top, self.bottom = 46, width - 10, 10, height - (24 if step_ticks else 10)
        self.ticks = _ticks(min(values), max(values))
        room = 0.04 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
        self.low, self.high = min(values) - room, max(values) + room
        self.first, self.last = min(steps), max(max(steps), min(steps) + 1e-9)
        self.step_ticks = _ticks(self.first, self.last) if step_ticks else []

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * (step - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)

    def path(self, points: Points) -> str:
        stride = max(1, len(points) // 400)
        chosen = [*points[::stride], points[-1]]
        return " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in chosen)

    def frame(self) -> str:
        rows = [
            f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}"/>'
            f'<text x="{self.left - 6}" y="{self.y(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
            for tick in self.ticks
        ]
        columns = [
            f'<text x="{self.x(tick):.1f}" y="{self.bottom + 16}" text-anchor="middle">{_short(tick)}</text>'
            for tick in self.step_ticks
        ]
        return "".join(rows + columns)


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if abs(number) >= 1000 else f"{number:g}"


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers within [low, high]."""
    span = high - low
    if span <= 0:
        return [float(f"{low:.3g}")]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{place * step:.10g}") for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _smooth(points: Points) -> list[tuple[float, float]]:
    """Mean over a window of a twentieth of the curve, shorter at its ends."""
    half = max(1, len(points) // 40)
    smooth = []
    for place, (step, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        window = [value for _, value in points[place - reach : place + reach + 1]]
        smooth.append((step, sum(window) / len(window)))
    return smooth
