"""Charts and pictures: lines over steps, a dot for each prompt and method, heat maps; as data URIs, or as PNG files."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from lofa.files import atomic_write

__all__ = ["COLOURS", "Grid", "Points", "animation", "draw_grids", "heat_map", "line_chart", "prompt_chart"]

Points = Sequence[tuple[float, float]]
COLOURS = ("#7a8699", "#2f6fde", "#0d9488", "#e8590c", "#8b5cf6", "#ca8a04", "#db2777", "#65a30d")
"""Of the methods, in their order; on light and dark paper alike."""

_INK = "#808a99"
_MAP = colormaps["magma"]
_LARGEST_MAP = 192
_NAMED = 8  # prompts whose names fit beside each other; those of more stand in the table alone
_LINE = 60  # a line of more points is drawn raw and smoothed


@dataclass(frozen=True, eq=False)
class Grid:
    """One heat map.

    Attributes:
        title: what the numbers are
        values: (rows, columns), 0 dark to its largest bright; NaN leaves a cell empty
        rows: their names
        columns: their names
    """

    title: str
    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]


def line_chart(title: str, series: Mapping[str, Points], size: tuple[float, float] = (3.4, 2.2)) -> str:
    """Lines over training steps; many raw points get a smoothed line over them. Non-finite values leave gaps."""
    figure, axes = _axes(size, title)
    for (name, points), colour in zip(series.items(), COLOURS[1:], strict=False):
        steps, values = np.array(points, dtype=float).T
        if len(points) > _LINE:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
            values = _smooth(values)
        axes.plot(steps, values, color=colour, linewidth=1.4, label=name)
    axes.legend(frameon=False, fontsize=7, labelcolor=_INK)
    return _svg(figure)


def prompt_chart(names: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """A dot for each prompt and method; prompts stand side by side in the order given, under their `names` if few."""
    figure, axes = _axes((10, 2.6), "denoising loss")
    table = np.array(list(rows.values()))
    axes.vlines(range(len(names)), table.min(0), table.max(0), color=_INK, alpha=0.4, linewidth=1)
    for place, (method, values) in enumerate(rows.items()):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(range(len(names)), values, "o", color=colour, markersize=4, label=method)
    axes.set_xticks(range(len(names)), names if len(names) <= _NAMED else [""] * len(names), fontsize=6)
    axes.legend(frameon=False, fontsize=7, labelcolor=_INK, ncols=len(rows), loc="lower right", bbox_to_anchor=(1, 1))
    return _svg(figure)


def draw_grids(path: Path, heading: str, grids: Sequence[Grid]) -> None:
    """Writes grids side by side under a heading, as PNG: a number in every cell, rows and columns named."""
    rows, columns = (max(grid.values.shape[side] for grid in grids) for side in (0, 1))
    figure = Figure(figsize=(len(grids) * (1.5 + 0.55 * columns), 1.6 + 0.25 * rows), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    for axes, grid in zip(np.atleast_1d(figure.subplots(1, len(grids))), grids, strict=True):
        values = np.ma.masked_invalid(grid.values.numpy())
        peak = float(values.max()) or 1.0
        axes.imshow(values, cmap=_MAP, vmin=0, vmax=peak, aspect="auto", interpolation="nearest")
        axes.set_title(grid.title, fontsize=8)
        axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=90, fontsize=7)
        axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=7)
        for (row, column), value in np.ndenumerate(values):
            if not np.ma.is_masked(values[row, column]):
                ink = "white" if value < 0.6 * peak else "black"
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=6)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def heat_map(values: Tensor) -> str:
    """A map (h, w) of values in [0, 1] as a PNG, dark to bright; large ones are averaged down."""
    values = values.detach().float().cpu()
    scale = max(values.shape) / _LARGEST_MAP
    if scale > 1:
        size = [max(1, round(side / scale)) for side in values.shape]
        values = interpolate(values[None, None], size, mode="area")[0, 0]
    return _uri(Image.fromarray(_MAP(values.numpy(), bytes=True)[..., :3]), "PNG", optimize=True)


def animation(clips: Sequence[Tensor], fps: float) -> str:
    """Clips uint8 (T, H, W, 3) of one size side by side, as one looping WebP: so they stay in step."""
    gap = torch.full_like(clips[0][:, :, :2], 255)
    parts = [part for clip in clips for part in (gap, clip.cpu())][1:]
    first, *others = [Image.fromarray(frame.numpy()) for frame in torch.cat(parts, dim=2)]
    timing = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0}
    return _uri(first, "WEBP", **timing, quality=82, method=4)


def _axes(size: tuple[float, float], title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=8, color=_INK, loc="left")
    axes.tick_params(colors=_INK, labelsize=7)
    axes.spines[:].set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_INK, alpha=0.25, linewidth=0.5)
    return figure, axes


def _smooth(values: Any) -> Any:
    """Mean over a window of a twentieth of the curve, shorter at its ends."""
    half = len(values) // 40
    kernel = np.ones(2 * half + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "lofa"}
    ):  # text stays text; the same chart, the same bytes
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]


def _uri(image: Image.Image, format: str, **values: Any) -> str:
    file = io.BytesIO()
    image.save(file, format=format, **values)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
