"""The paired bootstrap beside plain loops: what is drawn, what is averaged, where an interval ends."""

import numpy as np
import pytest
import torch

from lofa.evaluation.bootstrap import Interval, compare_draws, draw_units, interval, mean_draws, mean_over_units
from lofa.metrics import frechet_of_features


def test_draws_depend_on_the_seed_alone_and_name_every_unit_as_often() -> None:
    draws = draw_units(7, 5000, seed=3)
    assert torch.equal(draws, draw_units(7, 5000, seed=3)) and not torch.equal(draws, draw_units(7, 5000, seed=4))
    assert draws.shape == (5000, 7)
    share = torch.bincount(draws.flatten(), minlength=7) / draws.numel()
    assert len(share) == 7 and (share - 1 / 7).abs().max() < 0.01
    repeats = [len(set(row)) for row in draws.tolist()]
    assert np.mean(repeats) == pytest.approx(7 * (1 - (6 / 7) ** 7), abs=0.05), "drawn with replacement"


def test_every_prompt_weighs_the_same_whatever_its_number_of_clips() -> None:
    means = mean_over_units(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [2.0, 10.0]
    assert mean_draws(means, torch.tensor([[0, 1], [1, 1]])).tolist() == [6.0, 10.0]
    unordered = mean_over_units(torch.tensor([10.0, 1.0, 3.0]), torch.tensor([1, 0, 0]), 2)
    assert unordered.tolist() == [2.0, 10.0]


def test_an_interval_is_the_middle_95_percent_of_the_draws_moved_onto_the_value() -> None:
    draws = torch.arange(1001).flip(0).double()  # percentiles 25 and 975, mean 500
    assert interval(500.0, draws) == Interval(500.0, 25.0, 975.0)
    assert interval(-3.0, draws) == Interval(-3.0, -478.0, 472.0)
    skewed = torch.tensor([0.0, 0.0, 0.0, 8.0]).repeat(100)
    assert interval(2.0, skewed) == Interval(2.0, 0.0, 8.0)
    assert interval(1.0, skewed) == Interval(1.0, -1.0, 7.0)
    assert interval(1.0, skewed, 0.0, 6.5) == Interval(1.0, 0.0, 6.5), "no further than the value can be"


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = interval(float(values.mean()), mean_draws(values, draw_units(400, 4000, seed=1)))
    expected = 1.96 * float(values.std()) / 20
    assert found.value - found.low == pytest.approx(expected, rel=0.1)
    assert found.high - found.value == pytest.approx(expected, rel=0.1)


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    (mu1, s1), (mu2, s2) = ((rows.mean(0), np.cov(rows, rowvar=False)) for rows in (first, second))
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    return float(((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root)


def test_compared_draws_are_the_distances_of_the_drawn_prompts_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.tensor([0, 0, 1, 2, 2, 3, 3, 3])
    real, *methods = torch.randn(3, 8, 4, generator=generator)
    indices = torch.randint(4, (20, 4), generator=generator)
    found = compare_draws(frechet_of_features, methods, real, unit, indices)
    assert found.shape == (20, 2)
    for draw, drawn in enumerate(indices.tolist()):
        rows = [clip for one in drawn for clip in range(8) if unit[clip] == one]
        for place, own in enumerate(methods):
            expected = frechet(own[rows].double().numpy(), real[rows].double().numpy())
            assert float(found[draw, place]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
