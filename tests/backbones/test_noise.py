import torch

from lofa.backbones.noise import NOISE_STEPS, add_noise, draw_noise_levels, noise_levels, velocity_target


def test_grid_is_that_of_the_method() -> None:
    sigma = noise_levels(5.0)
    s = torch.linspace(1, 0, 1001)[:-1]
    assert sigma.shape == (NOISE_STEPS,)
    torch.testing.assert_close(sigma, 5 * s / (1 + 4 * s))
    assert sigma[0] == 1 and sigma[-1] > 0 and bool((sigma.diff() < 0).all())


def test_one_level_a_sample_from_the_grid() -> None:
    drawn = draw_noise_levels(4000, 5.0, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000,) and torch.isin(drawn, noise_levels(5.0)).all()
    torch.testing.assert_close(drawn.mean(), noise_levels(5.0).mean(), atol=0.02, rtol=0)
    assert torch.equal(drawn, draw_noise_levels(4000, 5.0, torch.Generator().manual_seed(0)))


def test_velocity_leads_from_data_to_noise() -> None:
    x_0, n = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.9], dtype=torch.float64)
    x_t = add_noise(x_0, n, sigma)
    torch.testing.assert_close(x_t - sigma.view(-1, 1, 1) * velocity_target(x_0, n), x_0)
    assert torch.equal(add_noise(x_0, n, torch.zeros(2)), x_0)
    assert torch.equal(add_noise(x_0, n, torch.ones(2)), n)
