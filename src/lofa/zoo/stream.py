"""What is random in training: each LoRA's clips, noise levels and noise come from its own seed alone.

So a LoRA is the same LoRA whatever batch, order or shard it was trained in. Levels are stratified over the clips of a
step: the i-th lies in the i-th of c equal parts of the training grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lofa.diffusion import DiffusionProcess, stratified

__all__ = ["Draw", "DrawStream"]

_BLOCK_VALUES = 2**20  # noise values drawn at once a LoRA: 4 MiB


@dataclass(frozen=True)
class Draw:
    """One step of N LoRAs: clips (N, c) as indices into each LoRA's own, levels (N, c), noise (N, c, C, T, H, W)."""

    clips: Tensor
    levels: Tensor
    noise: Tensor


class DrawStream:
    """Draws steps for N LoRAs, several steps at a time.

    Args:
        seeds, counts: one a LoRA, and how many clips it has.
        clips_per_step: c; clips of a step differ while a LoRA has as many.
        shape: (C, T, H, W) of a clip's latents.
        process: says which noise levels there are.
        device: where draws are wanted.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        counts: Sequence[int],
        clips_per_step: int,
        shape: Sequence[int],
        process: DiffusionProcess,
        device: torch.device,
    ) -> None:
        self.sources = [(torch.Generator().manual_seed(seed), count) for seed, count in zip(seeds, counts, strict=True)]
        self.width, self.shape, self.process, self.device = clips_per_step, tuple(shape), process, device
        values = clips_per_step * torch.Size(self.shape).numel()
        self.block = max(1, min(64, _BLOCK_VALUES // values))
        self.at = self.block

    def _draw(self, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        repeats = -(-self.width // count)
        order = torch.rand(self.block, repeats, count, generator=generator).argsort(-1)
        levels = self.process.level_at(stratified(self.width, generator, self.block))
        noise = torch.randn(self.block, self.width, *self.shape, generator=generator)
        return order.flatten(1)[:, : self.width], levels, noise

    def next(self) -> Draw:
        """The next step's draw."""
        if self.at == self.block:
            parts = zip(*(self._draw(*source) for source in self.sources), strict=True)
            self.drawn = tuple(torch.stack(part, dim=1).to(self.device) for part in parts)
            self.at = 0
        self.at += 1
        clips, levels, noise = (part[self.at - 1] for part in self.drawn)
        return Draw(clips, levels, noise)

    def keep(self, mask: Tensor) -> None:
        """Drops the LoRAs where `mask` (N,) is false; what the others draw stays the same."""
        kept = mask.tolist()
        self.sources = [source for source, keep in zip(self.sources, kept, strict=True) if keep]
        self.drawn = tuple(part[:, mask] for part in self.drawn)
