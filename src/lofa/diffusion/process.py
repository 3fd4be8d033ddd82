"""What every diffusion process says, in the direction of its variables.

    x_0 (data) --- level up, add_noise ---> x_t ---> noise        predicted = denoiser(x_t, timestep(level))
    loss = mean (predicted - target(x_0, noise, level))^2         weighted in training by weight(level)

A noise level is one number a sample: near 0 is data, 1 is noise. What it means (sigma of flow matching, the share of
the timesteps of DDPM), what is predicted (velocity, epsilon) and what the denoiser takes as timestep is the process's
own; nothing outside assumes it.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["DiffusionProcess", "per_sample"]


def per_sample(level: Tensor, x: Tensor) -> Tensor:
    """One number a sample (B,), shaped to be multiplied with x (B, ...)."""
    return level.view(-1, *[1] * (x.ndim - 1))


class DiffusionProcess(ABC):
    """Noise levels, noisy data, target and timestep of one diffusion process."""

    @property
    @abstractmethod
    def levels(self) -> Tensor:
        """The levels that training draws from, (steps,) float32 in (0, 1], from noise down."""

    @abstractmethod
    def add_noise(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """`x_t` (B, ...) from data and noise (B, ...) at noise levels (B,)."""

    @abstractmethod
    def target(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the denoiser is to predict (B, ...) of that `x_t`."""

    @abstractmethod
    def timestep(self, level: Tensor) -> Tensor:
        """Levels (B,) as the denoiser takes them (B,)."""

    def weight(self, level: Tensor) -> Tensor:
        """Weight of the squared error at levels (B,) in training, of mean 1 over `levels`; here 1 at every level."""
        return torch.ones_like(level)

    def level_at(self, u: Tensor) -> Tensor:
        """The levels at the quantiles `u` (...) in [0, 1) of the training grid, 0 being noise."""
        levels = self.levels.to(u.device)
        return levels[(u * len(levels)).long().clamp_max(len(levels) - 1)]

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """`count` levels of the grid (count,), independent of each other, on the generator's device."""
        device = torch.device("cpu") if generator is None else generator.device
        levels = self.levels.to(device)
        return levels[torch.randint(len(levels), (count,), generator=generator, device=device)]
