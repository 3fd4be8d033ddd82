import pytest
import torch
from diffusers import DDPMScheduler

from lofa.diffusion import Ddpm

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
LEVELS = torch.tensor([0.0, 0.2504, 0.5, 0.999])
STEPS = torch.tensor([0, 250, 500, 999])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_diffusers_schedule(prediction: str) -> None:
    process, scheduler = Ddpm(CONFIG | {"prediction_type": prediction}), DDPMScheduler(**CONFIG)
    x_0, noise = torch.randn(2, 4, 3, 1, 5, 5).unbind(0)
    assert torch.equal(process.timestep(LEVELS), STEPS)
    torch.testing.assert_close(process.add_noise(x_0, noise, LEVELS), scheduler.add_noise(x_0, noise, STEPS))
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(x_0, noise, STEPS)
    torch.testing.assert_close(process.target(x_0, noise, LEVELS), expected)


def test_velocity_and_noisy_data_give_the_data_back() -> None:
    process = Ddpm(CONFIG | {"prediction_type": "v_prediction"})
    x_0, noise = torch.randn(2, 4, 3, 1, 5, 5, dtype=torch.float64).unbind(0)
    x_t, v = process.add_noise(x_0, noise, LEVELS), process.target(x_0, noise, LEVELS)
    signal = DDPMScheduler(**CONFIG).alphas_cumprod[STEPS].double().view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(signal.sqrt() * x_t - (1 - signal).sqrt() * v, x_0, rtol=0, atol=1e-6)


def test_levels_run_from_noise_to_data_and_weigh_the_same() -> None:
    process = Ddpm(CONFIG)
    assert torch.equal(process.timestep(process.levels), torch.arange(999, -1, -1))
    assert torch.equal(process.weight(process.levels), torch.ones(1000))


def test_a_prediction_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match="prediction_type=sample: there are epsilon, v_prediction"):
        Ddpm({"prediction_type": "sample"})
