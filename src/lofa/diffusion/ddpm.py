"""Denoising diffusion: data and noise mixed at T discrete steps, the denoiser predicts the noise or the velocity.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n,   n ~ N(0, 1)
    target: n (epsilon), or sqrt(a_t) n - sqrt(1 - a_t) x_0 (v_prediction)

`a_t` is the cumulative product of 1 - beta (Ho et al. 2020, equation 4; velocity: Salimans and Ho 2022). The level of
step t is t / T; a level between two steps stands for the nearest one. Every level weighs the same in training.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lofa.diffusion.process import DiffusionProcess, per_sample

__all__ = ["Ddpm"]

_PREDICTIONS = ("epsilon", "v_prediction")


class Ddpm(DiffusionProcess):
    """The process of a diffusers scheduler's configuration: its betas, its prediction type.

    Args:
        config: of the scheduler: num_train_timesteps, beta_start, beta_end, beta_schedule, prediction_type ...

    Raises:
        ValueError: a prediction type other than epsilon and v_prediction.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.prediction = str(config.get("prediction_type", "epsilon"))
        if self.prediction not in _PREDICTIONS:
            raise ValueError(f"prediction_type={self.prediction}: there are {', '.join(_PREDICTIONS)}")
        self._config = dict(config)

    @cached_property
    def _alphas(self) -> Tensor:
        """a_t (T,) float32, as diffusers computes it from the configuration."""
        from diffusers import DDPMScheduler

        alphas: Tensor = DDPMScheduler.from_config(self._config).alphas_cumprod
        return alphas

    @property
    def steps(self) -> int:
        """T."""
        return len(self._alphas)

    @cached_property
    def levels(self) -> Tensor:
        return torch.arange(self.steps - 1, -1, -1) / self.steps

    def add_noise(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        signal, spread = self._scales(level, x_0)
        return signal * x_0 + spread * noise

    def target(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._scales(level, x_0)
        return signal * noise - spread * x_0

    def timestep(self, level: Tensor) -> Tensor:
        return (level * self.steps).round().long().clamp(0, self.steps - 1)

    def _scales(self, level: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) of each sample, shaped to be multiplied with `x`."""
        alpha = self._alphas.to(level.device)[self.timestep(level)]
        return per_sample(alpha.sqrt(), x), per_sample((1 - alpha).sqrt(), x)
