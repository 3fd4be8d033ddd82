"""Noise that a seed fixes.

A draw for training depends on (seed, step, sample id) alone: a resumed run sees the noise of an uninterrupted one, and
a batch split over processes the noise of the whole batch. Levels of one sample are stratified: with c of them, the
i-th lies in the i-th of c equal parts of the training grid.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lofa.diffusion.process import DiffusionProcess

__all__ = ["NoiseDraw", "draw_noise", "seeded_noise", "stratified"]


@dataclass(frozen=True, eq=False)
class NoiseDraw:
    """Noise for B latents.

    Attributes:
        noise: (B, ...) standard normal
        level: (B,) noise levels of the training grid
        weight: (B,) training weights of these levels
    """

    noise: Tensor
    level: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> "NoiseDraw":
        """Moves all of it."""
        return NoiseDraw(self.noise.to(device), self.level.to(device), self.weight.to(device))


def stratified(count: int, generator: torch.Generator, *batch: int) -> Tensor:
    """Quantiles (*batch, count) in [0, 1), the i-th of `count` uniform in the i-th of as many equal parts."""
    return (torch.arange(count) + torch.rand(*batch, count, generator=generator)) / count


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise (len(seeds), *shape) on the CPU; a row depends on its own seed alone."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw_noise(
    process: DiffusionProcess, ids: Sequence[str], shape: Sequence[int], *, seed: int, step: int, draws: int = 1
) -> NoiseDraw:
    """Noise of `draws` latents for each id, the draws of an id following each other.

    Args:
        process: says which levels there are
        ids: P sample ids
        shape: of one latent, (C, T, H, W)
        seed: of the run
        step: of the training
        draws: levels for each id, stratified

    Returns:
        B = P * draws rows on the CPU
    """
    noise, level = [], []
    for name in ids:
        generator = torch.Generator().manual_seed(_number(f"{seed}/{step}/{name}"))
        noise.append(torch.randn((draws, *shape), generator=generator))
        level.append(process.level_at(stratified(draws, generator)))
    levels = torch.cat(level)
    return NoiseDraw(torch.cat(noise), levels, process.weight(levels))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
