"""Laws of the paired bootstrap."""

import pytest
import torch

from lofa.evaluation.bootstrap import Interval, draw_units, fvd_draws, interval, mean_draws, mean_over_units
from lofa.metrics import frechet_of_features


def test_draws_depend_on_the_seed_alone_and_name_units() -> None:
    draws = draw_units(7, 50, seed=3)
    assert torch.equal(draws, draw_units(7, 50, seed=3)) and not torch.equal(draws, draw_units(7, 50, seed=4))
    assert draws.shape == (50, 7) and draws.min() >= 0 and draws.max() < 7


def test_means_weigh_every_unit_the_same() -> None:
    means = mean_over_units(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [2.0, 10.0]
    assert mean_draws(means, torch.tensor([[0, 1], [1, 1]])).tolist() == [6.0, 10.0]


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = interval(float(values.mean()), mean_draws(values, draw_units(400, 4000, seed=1)))
    expected = 1.96 * float(values.std()) / 20
    assert found.value - found.low == pytest.approx(expected, rel=0.1)
    assert found.high - found.value == pytest.approx(expected, rel=0.1)


def test_a_paired_difference_cancels_what_the_methods_share() -> None:
    shared = 10 * torch.randn(30, generator=torch.Generator().manual_seed(0)).double()
    indices = draw_units(30, 500, seed=1)
    first, second = mean_draws(shared, indices), mean_draws(shared + 0.5, indices)
    difference = interval(0.5, second - first)
    assert difference.excludes_zero and difference.low == pytest.approx(0.5)
    assert not interval(float(shared.mean()), first).excludes_zero


def test_fvd_draws_are_the_distance_of_the_drawn_clips_and_the_interval_holds_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.tensor([0, 0, 1, 2, 2, 3, 3, 3])
    real = torch.randn(8, 4, generator=generator)
    methods = [real + 1, torch.randn(8, 4, generator=generator)]
    indices = draw_units(4, 200, seed=0)
    draws = fvd_draws(methods, real, unit, indices)
    rows = torch.cat([(unit == drawn).nonzero().flatten() for drawn in indices[5].tolist()])
    assert draws.shape == (200, 2)
    assert float(draws[5, 1]) == pytest.approx(float(frechet_of_features(methods[1][rows], real[rows])))
    assert torch.allclose(draws[:, 0], torch.tensor(4.0, dtype=torch.float64))
    value = float(frechet_of_features(methods[1], real))
    found = interval(value, draws[:, 1])
    assert found.low <= value <= found.high


def test_excluding_zero() -> None:
    assert Interval(1, 0.5, 2).excludes_zero and Interval(-1, -2, -0.5).excludes_zero
    assert not Interval(1, -0.5, 2).excludes_zero
