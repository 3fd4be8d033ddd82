"""How much an adapter changes its backbone: numbers against dense matrices, words by their thresholds, the picture."""

from pathlib import Path

import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from lofa.adapters import LowRank
from lofa.evaluation import Grid, draw_grids, measure_change, say_change, total_relative
from lofa.evaluation.change import HUGE, TINY

NAMES = ("transformer.blocks.0.attn1.to_q", "transformer.blocks.1.attn2.to_v")


def weight(name: str) -> Tensor:
    return torch.randn(12, 9, generator=torch.Generator().manual_seed(NAMES.index(name)))


def sized(relative: float, name: str, alpha: float = -0.5) -> LowRank:
    """A pair that moves the layer by `relative` of its norm."""
    generator = torch.Generator().manual_seed(7)
    A, B = torch.randn(2, 9, generator=generator), torch.randn(12, 2, generator=generator)
    return LowRank(A, B * relative * weight(name).norm() / (alpha * B @ A).norm(), alpha)


def test_numbers_are_those_of_the_dense_matrices() -> None:
    adapter = {name: sized(0.03 * (1 + place), name) for place, name in enumerate(NAMES)}
    changes = measure_change(adapter, weight, tau=0.05)
    for name, pair in adapter.items():
        delta, W = pair.delta_weight(), weight(name)
        assert changes[name].norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert changes[name].relative == pytest.approx(float(delta.norm() / W.norm()), rel=1e-5)
        assert changes[name].share == pytest.approx(float((delta.abs() / (W.abs() + 1e-8) > 0.05).float().mean()))
    delta = torch.cat([pair.delta_weight().flatten() for pair in adapter.values()])
    all_w = torch.cat([weight(name).flatten() for name in adapter])
    assert total_relative(changes.values()) == pytest.approx(float(delta.norm() / all_w.norm()), rel=1e-5)


@pytest.mark.parametrize(
    ("relative", "word"),
    [(0.0, "empty"), (0.9 * TINY, "tiny"), (1.1 * TINY, "ordinary"), (0.9 * HUGE, "ordinary"), (1.1 * HUGE, "huge")],
)
def test_words(relative: float, word: str) -> None:
    adapter = {name: sized(relative, name) for name in NAMES}
    assert say_change(measure_change(adapter, weight)).startswith(f"{word}:")


def test_one_huge_layer_is_named() -> None:
    assert say_change(measure_change({NAMES[0]: sized(0.01, NAMES[0]), NAMES[1]: sized(0.25, NAMES[1])}, weight)) == (
        f"huge in places: {NAMES[1]} moves by 0.25 of its norm; try a smaller strength"
    )


def test_without_a_backbone_only_empty_is_known() -> None:
    changes = measure_change({NAMES[0]: sized(1.0, NAMES[0])}, None)
    assert total_relative(changes.values()) is None and changes[NAMES[0]].share is None
    assert say_change(changes).startswith("not empty")
    assert say_change(measure_change({NAMES[0]: sized(0.0, NAMES[0])}, None)).startswith("empty:")


def test_a_grid_shows_its_values(tmp_path: Path) -> None:
    """Every cell's corner has its value's colour; a missing value leaves paper."""
    values = torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 4.0, 3.0]])
    draw_grids(tmp_path / "g.png", "heading", [Grid("title", values, ["a", "b"], ["x", "y", "z"])])
    with Image.open(tmp_path / "g.png") as picture:
        shown = set(picture.convert("RGB").getdata())
    expected = {
        tuple(int(c) for c in colour[:3]) for colour in colormaps["magma"]([0.0, 0.25, 0.5, 0.75, 1.0], bytes=True)
    }
    assert expected <= shown and (255, 255, 255) in shown
