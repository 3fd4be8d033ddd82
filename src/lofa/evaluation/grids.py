"""Grids of numbers as a picture: a heat map with a number in every cell, rows and columns named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lofa.evaluation.pictures import colours
from lofa.files import atomic_write

__all__ = ["Grid", "draw_grids"]

_CELL = (56, 20)
_FONT = 12
_GAP = 24
_INK = (30, 30, 30)


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


def draw_grids(path: Path, heading: str, grids: Sequence[Grid]) -> None:
    """Writes grids side by side under a heading, as PNG."""
    parts = [_draw(grid) for grid in grids]
    font = ImageFont.load_default(_FONT + 2)
    top = _FONT + 2 + _GAP
    width = max(sum(part.width + _GAP for part in parts), int(font.getlength(heading)) + _GAP) + _GAP
    page = Image.new("RGB", (width, max(part.height for part in parts) + top + _GAP), "white")
    ImageDraw.Draw(page).text((_GAP, _GAP // 2), heading, _INK, font)
    left = _GAP
    for part in parts:
        page.paste(part, (left, top))
        left += part.width + _GAP
    with atomic_write(path) as temporary:
        page.save(temporary, "PNG")


def _draw(grid: Grid) -> Image.Image:
    font = ImageFont.load_default(_FONT)
    left = max(int(font.getlength(name)) for name in grid.rows) + 8
    slant = max(int(font.getlength(name)) for name in grid.columns) + 8
    top = _FONT + 8 + slant
    count = len(grid.columns)
    size = (max(left + count * _CELL[0], int(font.getlength(grid.title))), top + len(grid.rows) * _CELL[1])
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), grid.title, _INK, font)
    peak = float(grid.values.nan_to_num(0).max())
    shade = grid.values.nan_to_num(0) / (peak or 1.0)
    pixels = colours(shade)
    for column, name in enumerate(grid.columns):
        label = Image.new("RGB", (slant, _CELL[1]), "white")
        ImageDraw.Draw(label).text((0, 2), name, _INK, font)
        upright = label.rotate(90, expand=True)
        picture.paste(upright, (left + column * _CELL[0] + (_CELL[0] - upright.width) // 2, _FONT + 8))
    for row, name in enumerate(grid.rows):
        y = top + row * _CELL[1]
        draw.text((left - 6, y + _CELL[1] // 2), name, _INK, font, anchor="rm")
        for column in range(count):
            value = grid.values[row, column]
            if torch.isnan(value):
                continue
            x = left + column * _CELL[0]
            draw.rectangle((x, y, x + _CELL[0] - 2, y + _CELL[1] - 2), tuple(int(c) for c in pixels[row, column]))
            ink = "white" if shade[row, column] < 0.6 else "black"
            middle = (x + _CELL[0] // 2 - 1, y + _CELL[1] // 2 - 1)
            draw.text(middle, f"{float(value):.3g}", ink, font, anchor="mm")
    return picture
