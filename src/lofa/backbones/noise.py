"""The noise of flow matching, in the direction of its variables.

    x_t = (1 - sigma) x_0 + sigma n,   n ~ N(0, 1),   target velocity v = n - x_0,   timestep t = 1000 sigma

`sigma` is the noise level: 0 is data, 1 is noise. The training grid has 1000 levels, uniform `s` in (0, 1] moved
towards noise by a shift k: `sigma = k s / (1 + (k - 1) s)`.
"""

import torch
from torch import Tensor

__all__ = ["NOISE_STEPS", "add_noise", "draw_noise_levels", "noise_levels", "velocity_target"]

NOISE_STEPS = 1000


def noise_levels(shift: float, steps: int = NOISE_STEPS) -> Tensor:
    """The grid of noise levels (steps,) float32, from 1 down."""
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    return (shift * s / (1 + (shift - 1) * s)).float()


def draw_noise_levels(count: int, shift: float, generator: torch.Generator | None = None) -> Tensor:
    """`count` levels of the grid (count,), one a sample, on the generator's device."""
    device = torch.device("cpu") if generator is None else generator.device
    steps = torch.randint(NOISE_STEPS, (count,), generator=generator, device=device)
    return noise_levels(shift).to(device)[steps]


def add_noise(x_0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`x_t` (B, ...) from data and noise (B, ...) at noise level `sigma` (B,)."""
    sigma = sigma.view(-1, *[1] * (x_0.ndim - 1))
    return (1 - sigma) * x_0 + sigma * noise


def velocity_target(x_0: Tensor, noise: Tensor) -> Tensor:
    """`n - x_0` (B, ...)."""
    return noise - x_0
