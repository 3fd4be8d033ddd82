"""Flow matching: data and noise on a straight line, the denoiser predicts its velocity.

    x_t = (1 - sigma) x_0 + sigma n,   n ~ N(0, 1),   target v = n - x_0,   timestep t = T sigma

The level is `sigma`. The training grid has T levels, uniform `s` in (0, 1] moved towards noise by a shift k:

    sigma = k s / (1 + (k - 1) s)

The weight of the published training is w(t) = exp(-2 ((t - T/2) / T)^2), minus its minimum, scaled to mean 1 over the
grid.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lofa.diffusion.process import DiffusionProcess, per_sample

__all__ = ["FlowMatching"]


@dataclass(frozen=True)
class FlowMatching(DiffusionProcess):
    """Flow matching on a shifted grid.

    Attributes:
        shift: k, how far the grid leans to noise; 1 leaves it uniform
        steps: T
    """

    shift: float
    steps: int = 1000

    @cached_property
    def levels(self) -> Tensor:
        s = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)[:-1]
        return (self.shift * s / (1 + (self.shift - 1) * s)).float()

    def add_noise(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        sigma = per_sample(level, x_0)
        return (1 - sigma) * x_0 + sigma * noise

    def target(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise - x_0

    def timestep(self, level: Tensor) -> Tensor:
        return level * self.steps

    def weight(self, level: Tensor) -> Tensor:
        grid = _bell(self.levels)
        least = grid.min()
        return ((_bell(level) - least) / (grid - least).mean()).float()


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma.double() - 0.5) ** 2)
