import pytest
import torch

from lofa.diffusion import FlowMatching

PROCESS = FlowMatching(5.0)


def test_grid_is_that_of_the_method() -> None:
    s = torch.linspace(1, 0, 1001)[:-1]
    sigma = PROCESS.levels
    assert sigma.shape == (1000,) and sigma.dtype == torch.float32
    torch.testing.assert_close(sigma, 5 * s / (1 + 4 * s))
    assert sigma[0] == 1 and sigma[-1] > 0 and bool((sigma.diff() < 0).all())
    assert torch.equal(PROCESS.timestep(sigma), 1000 * sigma)


def test_velocity_leads_from_data_to_noise() -> None:
    x_0, n = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.9], dtype=torch.float64)
    x_t = PROCESS.add_noise(x_0, n, sigma)
    torch.testing.assert_close(x_t - sigma.view(-1, 1, 1) * PROCESS.target(x_0, n, sigma), x_0)
    assert torch.equal(PROCESS.add_noise(x_0, n, torch.zeros(2)), x_0)
    assert torch.equal(PROCESS.add_noise(x_0, n, torch.ones(2)), n)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_weights_are_those_of_the_method(shift: float) -> None:
    process = FlowMatching(shift)
    bell = torch.exp(-2 * ((1000 * process.levels.double() - 500) / 1000) ** 2)
    bell -= bell.min()
    weights = process.weight(process.levels)
    torch.testing.assert_close(weights, (bell / bell.mean()).float())
    assert weights.dtype == torch.float32 and weights.min() == 0
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    some = [3, 500, 998]
    assert torch.equal(process.weight(process.levels[some]), weights[some]), "a level's weight is its own"
