"""Noise for the denoising loss: levels of the training grid, their weights, and draws that a seed, step and sample fix.

    w(t) = exp(-2 ((t - 500) / 1000)^2), t = 1000 sigma, minus its minimum, scaled to mean 1 over the grid

A draw depends on (seed, step, sample id) alone: a resumed run sees the noise of an uninterrupted one, and a batch split
over processes the noise of the whole batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lofa.backbones import noise_levels

__all__ = ["NoiseDraw", "NoiseSchedule"]


@dataclass(frozen=True, eq=False)
class NoiseDraw:
    """Noise for B latents.

    Attributes:
        noise: (B, ...) standard normal
        level: (B,) sigma in (0, 1]
        weight: (B,) w(t), mean 1 over the grid
    """

    noise: Tensor
    level: Tensor
    weight: Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """The training grid of noise levels.

    Attributes:
        shift: how far the grid leans to high noise (`Backbone.noise_shift`)
        weighted: False gives every level the weight 1
    """

    shift: float
    weighted: bool = True

    @cached_property
    def levels(self) -> Tensor:
        """sigma (steps,), from 1 down."""
        return noise_levels(self.shift)

    @cached_property
    def weights(self) -> Tensor:
        """w (steps,), mean 1."""
        if not self.weighted:
            return torch.ones_like(self.levels)
        bell = torch.exp(-2 * (self.levels.double() - 0.5) ** 2)
        bell = bell - bell.min()
        return (bell / bell.mean()).float()

    def draw(self, ids: Sequence[str], shape: Sequence[int], *, seed: int, step: int, draws: int = 1) -> NoiseDraw:
        """Noise of `draws` latents of `shape` for each id, the draws of an id following each other.

        The levels of one id are stratified: the k-th lies in the k-th of `draws` equal parts of the grid.

        Args:
            ids: P sample ids
            shape: of one latent, (C, T, H, W)
            seed: of the run
            step: of the training
            draws: levels for each id

        Returns:
            B = P * draws rows on the CPU
        """
        noise, index = [], []
        for name in ids:
            generator = torch.Generator().manual_seed(_number(f"{seed}/{step}/{name}"))
            noise.append(torch.randn((draws, *shape), generator=generator))
            place = (torch.arange(draws) + torch.rand(draws, generator=generator)) / draws
            index.append((place * len(self.levels)).long().clamp_max(len(self.levels) - 1))
        chosen = torch.cat(index)
        return NoiseDraw(torch.cat(noise), self.levels[chosen], self.weights[chosen])


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
