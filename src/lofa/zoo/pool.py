"""The clips of several LoRAs side by side, and the measurement that is the same for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lofa.adapters import AdapterBatch
from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.diffusion import seeded_noise
from lofa.zoo.jobs import Clips

__all__ = ["ClipPool", "Probe"]

_PROBE_SEED = 20_251_208


@dataclass(frozen=True)
class ClipPool:
    """The clips of N LoRAs, in one row of K.

    Attributes:
        latents: (K, C, T, H, W).
        condition: of the K clips.
        first, count: (N,), where each LoRA's clips begin and how many it has.
    """

    latents: Tensor
    condition: Condition
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, clips: Sequence[Clips], device: torch.device) -> "ClipPool":
        """The clips of each LoRA, moved to `device`; their latents have one shape."""
        count = torch.tensor([len(part) for part in clips], device=device)
        latents = torch.cat([part.latents for part in clips]).to(device)
        condition = Condition.cat([part.condition for part in clips]).to(device)
        return cls(latents, condition, count.cumsum(0) - count, count)

    def losses(
        self, backbone: Backbone, clips: Tensor, levels: Tensor, noise: Tensor, adapters: AdapterBatch | None
    ) -> Tensor:
        """Denoising losses (N, c) of each LoRA's own clips (N, c) at levels (N, c) with noise (N, c, C, T, H, W)."""
        chosen = (self.first[:, None] + clips).flatten()
        loss = backbone.denoising_loss(
            self.latents[chosen],
            self.condition[chosen],
            adapters,
            noise_level=levels.flatten(),
            noise=noise.flatten(0, 1),
            rows=torch.arange(len(clips)).repeat_interleave(clips.shape[1]),
        )
        return loss.view(clips.shape)

    def keep(self, mask: Tensor) -> "ClipPool":
        """Without the LoRAs where `mask` (N,) is false."""
        return replace(self, first=self.first[mask], count=self.count[mask])


class Probe:
    """Measures denoising losses at fixed noise levels with fixed noise, the same for every LoRA.

    A LoRA of k clips is measured on the least multiple of `levels` that is >= k rows: row i has clip i mod k, level
    i mod levels and noise i, so that every clip and every level has its turn.

    Args:
        levels: how many noise levels, at the middles of as many equal parts of the grid.
        width: rows a LoRA measured at once.
    """

    def __init__(self, backbone: Backbone, levels: int, width: int) -> None:
        self.backbone, self.width = backbone, width
        self.levels = backbone.process.level_at((torch.arange(levels) + 0.5) / levels).to(backbone.device)

    @torch.no_grad()
    def __call__(self, pool: ClipPool, adapters: AdapterBatch | None) -> Tensor:
        """Mean loss (N,) of each LoRA's clips under its adapter, or under none."""
        steps = len(self.levels)
        own = (pool.count + steps - 1) // steps * steps
        most = int(own.max())
        total = torch.zeros(len(own), device=own.device)
        for start in range(0, most, self.width):
            row = torch.arange(start, min(most, start + self.width), device=own.device)
            clips = row % pool.count[:, None]
            seeds = [_PROBE_SEED + number for number in row.tolist()]
            noise = seeded_noise(seeds, pool.latents.shape[1:]).to(own.device)
            losses = pool.losses(
                self.backbone,
                clips,
                self.levels[row % steps].expand(clips.shape),
                noise.expand(len(own), *noise.shape),
                adapters,
            )
            total += torch.where(row < own[:, None], losses, 0).sum(1)
        return total / own
