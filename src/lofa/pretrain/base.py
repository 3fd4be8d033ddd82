"""The tiny generator: `WanTransformer3DModel`, trained by flow matching on generic clips of the world.

It learns looks, backgrounds, camera drift and bodies in any pose, but no action: neither clips nor captions of the
action set are shown. So it is to the action set what a large model is to rare motions: a weak actor, to be taught.
"""

import copy

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from rich.console import Console
from torch import Tensor

from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.pretrain.fit import fit
from lofa.pretrain.options import Schedule
from lofa.worlds import caption, sample_batch

__all__ = ["new_transformer", "train_transformer"]


def new_transformer(heads: int, layers: int, latent_channels: int, text_dim: int) -> WanTransformer3DModel:
    """A Wan transformer with heads of 24 and patches (1, 2, 2)."""
    width = 24 * heads
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=24,
        in_channels=latent_channels,
        out_channels=latent_channels,
        text_dim=text_dim,
        freq_dim=64,
        ffn_dim=4 * width,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


def train_transformer(
    backbone: Backbone,
    schedule: Schedule,
    clips: int,
    seed: int,
    console: Console,
    caption_dropout: float = 0.1,
    captions_per_clip: int = 3,
) -> None:
    """Trains the transformer in place; keeps the mean of its weights over the last third of the steps.

    Args:
        clips: generic clips, encoded once; seeds count up from `seed`.
        caption_dropout: share of samples that see the empty prompt, for guidance.
        captions_per_clip: paraphrases of each clip's caption.
    """
    held_out = 96
    latents, captions = _encode(backbone, clips + held_out, captions_per_clip, seed, console)
    empty = backbone.encode_prompt([""])
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    transformer = backbone.denoiser["transformer"]
    transformer.requires_grad_(True).train()
    average = _Average(transformer, start=2 * schedule.steps // 3)

    def loss_of_step(step: int) -> Tensor:
        average.update(step)
        index = torch.from_numpy(rng.integers(clips, size=schedule.batch))
        which = torch.from_numpy(rng.integers(captions_per_clip, size=schedule.batch))
        condition = captions[index * captions_per_clip + which]
        dropped = torch.from_numpy(rng.random(schedule.batch) < caption_dropout)
        tokens = torch.where(dropped[:, None, None], _padded(empty, condition.tokens.shape[1]), condition.tokens)
        lengths = torch.where(dropped, empty.lengths, condition.lengths)
        return backbone.denoising_loss(latents[index], Condition(tokens, lengths), generator=noise).mean()

    fit("transformer", transformer.parameters(), schedule, loss_of_step, console)
    average.copy_into(transformer)
    transformer.requires_grad_(False).eval()
    with torch.no_grad():
        loss = backbone.denoising_loss(
            latents[clips:], captions[clips * captions_per_clip :: captions_per_clip], generator=noise
        )
    console.print(f"held-out generic clips: denoising loss {loss.mean():.4f}")


class _Average:
    """Running mean of a model's parameters from step `start` on."""

    def __init__(self, model: torch.nn.Module, start: int) -> None:
        self.model, self.start, self.count = model, start, 0
        self.mean = copy.deepcopy(dict(model.named_parameters()))

    @torch.no_grad()
    def update(self, step: int) -> None:
        if step < self.start:
            return
        self.count += 1
        for name, parameter in self.model.named_parameters():
            self.mean[name].lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def copy_into(self, model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(self.mean[name])


def _padded(condition: Condition, length: int) -> Tensor:
    return torch.nn.functional.pad(condition.tokens, (0, 0, 0, length - condition.tokens.shape[1]))


def _encode(
    backbone: Backbone, count: int, captions_per_clip: int, seed: int, console: Console
) -> tuple[Tensor, Condition]:
    """Latents (count, C, T, H, W) and conditions of count * captions_per_clip captions, a clip's side by side."""
    rng = np.random.default_rng(seed)
    latents, conditions = [], []
    for start in range(0, count, 64):
        batch = sample_batch([None] * min(64, count - start), range(seed + start, seed + min(start + 64, count)))
        latents.append(backbone.encode_video(torch.from_numpy(np.stack([clip.frames for clip in batch]))))
        texts = [caption(clip.appearance, None, rng) for clip in batch for _ in range(captions_per_clip)]
        conditions.append(backbone.encode_prompt(texts))
    console.print(f"encoded {count} generic clips")
    return torch.cat(latents), Condition.cat(conditions)
