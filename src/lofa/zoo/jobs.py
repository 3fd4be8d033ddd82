"""What goes into the training of one LoRA and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.data import Sample, read_encoded
from lofa.data.samples import LATENTS, prompt_of
from lofa.paths import Location

__all__ = ["Clips", "LoraJob", "LoraResult", "lora_seed", "read_clips"]


@dataclass(frozen=True)
class Clips:
    """Clips of one LoRA: latents (k, C, T, H, W), as the denoiser sees them, and the condition of each (k rows)."""

    latents: Tensor
    condition: Condition

    def __post_init__(self) -> None:
        if self.latents.ndim != 5 or not len(self.latents):
            raise ValueError(f"latents must be (k, C, T, H, W) with k >= 1, not {tuple(self.latents.shape)}")
        if len(self.latents) != len(self.condition):
            raise ValueError(f"{len(self.latents)} clips but {len(self.condition)} conditions")

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class LoraJob:
    """One LoRA to train.

    Attributes:
        id: its name in messages and results.
        clips: what it is trained on. A LoRA trained on one clip learns the clip; give siblings.
        seed: of its clip order, noise levels and noise: the result depends on it and not on the batch it is in.
        held_out: clips that choose the best step; only used with `LoraOptions.validate_every`.
        start: the adapter it starts from; None: from nothing.
    """

    id: str
    clips: Clips
    seed: int = 0
    held_out: Clips | None = None
    start: Adapter | None = None


@dataclass(frozen=True)
class LoraResult:
    """One trained LoRA, or why there is none.

    Attributes:
        id: of the job.
        adapter: None where training failed.
        first_loss, final_loss: denoising loss of the job's clips without and with the adapter, at fixed noise levels
            and noise that are the same for every LoRA.
        held_first_loss, held_final_loss: the same on the held-out clips, None without them.
        losses: training loss of each step (own noise levels and noise, hence noisy).
        held_losses: (step, loss) of each measurement on the held-out clips.
        steps: steps that the kept adapter was trained.
        lr: peak learning rate it was trained with.
        seconds: this LoRA's share of its batch's wall time, s.
        failure: why `adapter` is None, or why a first attempt had none.
    """

    id: str
    adapter: Adapter | None
    first_loss: float
    final_loss: float
    held_first_loss: float | None = None
    held_final_loss: float | None = None
    losses: list[float] = field(default_factory=list)
    held_losses: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    failure: str | None = None


def lora_seed(sample_id: str) -> int:
    """The seed of the LoRA anchored at a sample: its own, and the same in every set, batch and shard."""
    return int.from_bytes(blake2b(sample_id.encode(), digest_size=4).digest()) >> 1


def read_clips(set_dir: Location, samples: Sequence[Sample], backbone: Backbone) -> Clips:
    """Latents and text conditions of encoded samples of one size (DataError: one is missing, damaged or foreign)."""
    encoded = [read_encoded(set_dir, sample, backbone, [LATENTS]) for sample in samples]
    return Clips(torch.stack([one.latents for one in encoded if one.latents is not None]), prompt_of(encoded))
