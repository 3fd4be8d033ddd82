import torch

from lofa.training import NoiseSchedule


def test_grid_and_weights_are_those_of_the_method() -> None:
    schedule = NoiseSchedule(5.0)
    levels, weights = schedule.levels, schedule.weights
    assert levels.shape == (1000,) and levels[0] == 1
    s = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    torch.testing.assert_close(levels, (5 * s / (1 + 4 * s)).float())
    bell = torch.exp(-2 * ((1000 * levels.double() - 500) / 1000) ** 2)
    bell -= bell.min()
    torch.testing.assert_close(weights, (bell / bell.mean()).float())
    assert weights.min() == 0
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_a_draw_depends_on_seed_step_and_sample_alone() -> None:
    schedule = NoiseSchedule(5.0)
    both = schedule.draw(["a", "b"], (2, 3), seed=1, step=7)
    alone = schedule.draw(["b"], (2, 3), seed=1, step=7)
    assert torch.equal(both.noise[1:], alone.noise) and torch.equal(both.level[1:], alone.level)
    for other in (schedule.draw(["b"], (2, 3), seed=2, step=7), schedule.draw(["b"], (2, 3), seed=1, step=8)):
        assert not torch.equal(other.noise, alone.noise)


def test_levels_of_one_sample_are_spread_over_the_grid() -> None:
    draw = NoiseSchedule(1.0, weighted=False).draw(["a"], (1,), seed=0, step=0, draws=4)
    assert ((1 - draw.level) * 4).floor().tolist() == [0, 1, 2, 3]
    assert draw.weight.tolist() == [1, 1, 1, 1]
