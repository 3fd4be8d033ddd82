"""What a user may set about the recipe of the shipped models."""

from dataclasses import dataclass

from lofa.options import REQUIRED, Options, option

__all__ = ["Recipe", "Schedule"]


@dataclass(frozen=True)
class Schedule(Options):
    """How long and how fast one model is trained."""

    steps: int = option(REQUIRED, "optimiser steps", least=1)
    batch: int = option(REQUIRED, "samples a step", least=1)
    lr: float = option(REQUIRED, "peak learning rate, reached after the warm-up, then lowered linearly to 0", least=0)
    warmup: float = option(0.05, "share of the steps spent warming up", least=0)
    weight_decay: float = option(0.01, "decoupled", least=0)
    clip: float = option(1.0, "largest gradient norm", least=0)

    def rate(self, step: int) -> float:
        """Learning rate of step `step` as a share of the peak."""
        warm = max(1, round(self.warmup * self.steps))
        return min((step + 1) / warm, (self.steps - step) / max(1, self.steps - warm))


@dataclass(frozen=True)
class Recipe(Options):
    """Sizes and schedules of the shipped models."""

    vae_base: int = option(16, "channels of the autoencoder's widest resolution", least=1)
    vae_latents: int = option(16, "latent channels", least=1)
    vae_images: Schedule = Schedule(2000, 24, 2e-3)
    vae_short_clips: Schedule = Schedule(3200, 4, 1.2e-3)
    vae_full_clips: Schedule = Schedule(300, 4, 5e-4)
    text_width: int = option(64, "width of the text encoder", least=1)
    text_layers: int = option(3, "its layers", least=1)
    text_tokens: int = option(64, "longest prompt, in tokens", least=1)
    text: Schedule = Schedule(1200, 256, 2e-3)
    heads: int = option(4, "attention heads of the transformer", least=1)
    layers: int = option(4, "its blocks", least=1)
    shift: float = option(3.0, "shift of the noise levels of training and sampling", least=0)
    clips: int = option(2500, "clips that the transformer is trained on", least=1)
    transformer: Schedule = Schedule(3200, 64, 2e-3)
    clip: Schedule = Schedule(1100, 64, 2e-3)
    video: Schedule = Schedule(1700, 24, 3e-3)
    video_width: int = option(48, "width of the network of FVD", least=1)
    sampling_steps: int = option(8, "denoising steps of a clip", least=1)
    guidance: float = option(1.5, "classifier-free guidance of a clip", least=0)
    seed: int = option(0, "of everything that is drawn", least=0)
