"""The tiny video autoencoder: `AutoencoderKLWan`, trained from nothing in minutes on two cores.

Three steps, each with a fresh optimiser: single images, short clips, full-length clips. What makes it work
(found by trying; the class's default initialisation stays near 16 dB):

- spatial weights only in the last temporal tap of each causal convolution, so that a clip starts as a row of images;
- residual branches start near zero, attention at zero, `time_conv` as "repeat the frame", the log-variance at -6;
- the loss weighs pixels that differ from their neighbourhood, or thin limbs drown in background.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from lofa.pretrain.fit import fit
from lofa.pretrain.options import Schedule
from lofa.worlds import SPLITS, Appearance, random_motion, render, sample_batch, sample_motion

__all__ = [
    "figure_box",
    "new_vae",
    "normalise_latents",
    "psnr",
    "reconstruct",
    "reconstruction_loss",
    "scenes",
    "train_vae",
]

_TRAINING_ACTIONS = [name for name, split in SPLITS.items() if split == "train"]

_ERROR_SCALE = 5.0  # brings the squared error of a half-trained model near 0.1
_KL_WEIGHT = 1e-6  # of the mean KL divergence of a latent element: enough to keep the latents near unit size, no more


@torch.no_grad()
def new_vae(base_dim: int, z_dim: int) -> AutoencoderKLWan:
    """A Wan autoencoder of pixel patches 2, factor 8 in space and 4 in time, untrained but nearly linear."""
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        z_dim=z_dim,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * z_dim,
        latents_std=[1.0] * z_dim,
    )
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d | nn.Conv2d):
            assert module.bias is not None
            module.bias.zero_()
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, -1] *= 3**0.5
            module.weight[:, :, :-1] = 0
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight *= 0.1
        elif isinstance(module, WanAttentionBlock):
            module.proj.weight.zero_()
        elif isinstance(module, WanResample) and module.mode.endswith("3d"):
            eye = torch.eye(module.dim)
            module.time_conv.weight.zero_()
            module.time_conv.weight[:, :, -1, 0, 0] = eye.repeat(module.time_conv.out_channels // module.dim, 1)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.zero_()
        conv.weight[:, :, 0, 0, 0] = torch.eye(conv.in_channels)
    vae.encoder.conv_out.weight[z_dim:].zero_()
    vae.encoder.conv_out.bias[z_dim:] = -6.0
    return vae


class _ImageConv(WanCausalConv3d):
    """A causal convolution that sees one frame alone: only its last temporal tap meets data, the others padding."""

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        if x.shape[2] != 1 or self.kernel_size[0] == 1:
            return super().forward(x, cache_x)
        pad = self._padding[:4]
        y = F.conv2d(F.pad(x[:, :, 0], pad), self.weight[:, :, -1], self.bias, self.stride[1:])
        return y.unsqueeze(2)


def _lay_out(vae: AutoencoderKLWan, channels_last: bool) -> None:
    """Memory layout of the convolutions' weights: channels last is quicker on a CPU, contiguous ones can be saved."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d | nn.Conv2d):
            weight = module.weight
            layout = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
            weight.data = weight.data.contiguous(memory_format=layout if channels_last else torch.contiguous_format)


@contextmanager
def _images_only(vae: AutoencoderKLWan) -> Iterator[None]:
    """Within the block the convolutions skip the taps that a single frame never meets: a third of the work."""
    convs = [module for module in vae.modules() if type(module) is WanCausalConv3d]
    for conv in convs:
        conv.__class__ = _ImageConv
    try:
        yield
    finally:
        for conv in convs:
            conv.__class__ = WanCausalConv3d


def reconstruct(
    vae: AutoencoderKLWan, pixels: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Encodes and decodes without the final clamp of `decode`, whose gradient is zero outside [-1, 1].

    Args:
        pixels: (B, 3, T, H, W) in [-1, 1].
        generator: draws from the posterior; without one the mean is taken.

    Returns:
        the reconstruction (B, 3, T, H, W) and the mean KL divergence per latent element ().
    """
    if pixels.shape[2] == 1:
        with _images_only(vae):
            moments = vae.quant_conv(vae.encoder(patchify(pixels, 2)))
            z, kl = _sample(moments, generator)
            return unpatchify(vae.decoder(vae.post_quant_conv(z), first_chunk=True), 2), kl
    # As `encode` and `decode` do it, but all frames after the first at once instead of four by four: the causal caches
    # make it the same, and larger convolutions are quicker.
    vae.clear_cache()
    patches = patchify(pixels, 2)
    moments = []
    for part in (patches[:, :, :1], patches[:, :, 1:]):
        vae._enc_conv_idx = [0]
        moments.append(vae.encoder(part, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    z, kl = _sample(vae.quant_conv(torch.cat(moments, 2)), generator)
    z = vae.post_quant_conv(z)
    frames = []
    for part, first in ((z[:, :, :1], True), (z[:, :, 1:], False)):
        vae._conv_idx = [0]
        frames.append(vae.decoder(part, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first))
    vae.clear_cache()
    return unpatchify(torch.cat(frames, 2), 2), kl


def _sample(moments: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    if generator is None:
        return mean, kl
    return mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator), kl


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Five times the squared error, three times heavier where a pixel differs from its 9x9 mean by more than 0.16.

    Args:
        output, target: (B, 3, T, H, W) in [-1, 1] (0.16 there is 0.08 of the full range).
    """
    local = F.avg_pool3d(target, (1, 9, 9), stride=1, padding=(0, 4, 4), count_include_pad=False)
    detail = ((target - local).abs().amax(1, keepdim=True) > 0.16).float()
    weight = 1 + 2 * detail
    return _ERROR_SCALE * (weight * (output - target) ** 2).mean() / weight.mean()


def psnr(output: Tensor, target: Tensor, inside: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pixels (B, 3, T, H, W) in [-1, 1], of those alone that are `inside`."""
    error = (output.clamp(-1, 1) - target) ** 2
    mean = error.mean() if inside is None else (error * inside).sum() / (3 * inside.sum())
    return float(10 * torch.log10(4 / mean))


def figure_box(joints: Tensor, size: int = 64, margin: float = 0.06) -> Tensor:
    """1 inside the bounding box of each frame's joints (B, T, J, 2) in [0, 1], 0 outside: (B, 1, T, size, size).

    The box reaches by `margin` frame widths beyond the joints, as limbs have thickness.
    """
    low, high = joints.amin(2) - margin, joints.amax(2) + margin
    centres = (torch.arange(size) + 0.5) / size
    x, y = ((centres >= low[..., i : i + 1]) & (centres <= high[..., i : i + 1]) for i in range(2))
    return (y.unsqueeze(-1) & x.unsqueeze(-2)).unsqueeze(1).float()


@torch.no_grad()
def normalise_latents(vae: AutoencoderKLWan, pixels: Tensor) -> None:
    """Stores mean and deviation of each latent channel over pixels (B, 3, T, H, W) in the config, as Wan does."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(8)])
    mean = latents.mean((0, 2, 3, 4))
    std = latents.std((0, 2, 3, 4)).clamp(min=1e-3)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def scenes(count: int, frames: int, rng: np.random.Generator) -> Tensor:
    """Pixels (count, 3, frames, 64, 64) in [-1, 1] of figures in all looks and motions but held-out classes.

    Single images show arbitrary poses; of clips three in five show a training action, one idles, one moves at random.
    """
    motions, looks = [], []
    for _ in range(count):
        kind = rng.random()
        if frames == 1 or kind < 0.2:
            joints, look = random_motion(rng), Appearance.random(rng)
        else:
            action = None if kind < 0.4 else str(rng.choice(_TRAINING_ACTIONS))
            joints, look, _ = sample_motion(action, int(rng.integers(1 << 28)))
        start = int(rng.integers(0, 17 - frames + 1))
        motions.append(joints[start : start + frames])
        looks.append(look)
    return _to_pixels(render(np.stack(motions), looks))


def _held_out_scenes(count: int) -> tuple[Tensor, Tensor]:
    """Clips of held-out classes: pixels (count, 3, 17, 64, 64) in [-1, 1], joints (count, 17, 15, 2) in [0, 1]."""
    actions = [name for name, split in SPLITS.items() if split != "train"]
    clips = sample_batch([actions[i % len(actions)] for i in range(count)], [(1 << 28) + i for i in range(count)])
    joints = torch.from_numpy(np.stack([clip.joints for clip in clips]))
    return _to_pixels(np.stack([clip.frames for clip in clips])), joints


def _to_pixels(video: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, T, H, W, 3) to float (B, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(video).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def _loss(vae: AutoencoderKLWan, batch: int, frames: int, rng: np.random.Generator, step: int) -> Tensor:
    pixels = scenes(batch, frames, rng).contiguous(memory_format=torch.channels_last_3d)
    output, kl = reconstruct(vae, pixels, torch.Generator().manual_seed(step))
    return reconstruction_loss(output, pixels) + _KL_WEIGHT * kl


def train_vae(vae: AutoencoderKLWan, phases: Mapping[int, Schedule], seed: int, console: Console) -> None:
    """Trains in place, phase by phase (frames of its clips -> schedule), each with an optimiser of its own.

    After each the PSNR on clips of held-out classes is printed, over the whole frame and inside the figure's box.
    """
    held_out, joints = _held_out_scenes(59)
    for frames, schedule in phases.items():
        loss_of_step = partial(_loss, vae, schedule.batch, frames, np.random.default_rng((seed, frames)))
        vae.train()
        _lay_out(vae, channels_last=True)
        fit(f"VAE, clips of {frames}", vae.parameters(), schedule, loss_of_step, console)
        _lay_out(vae, channels_last=False)
        vae.eval()
        with torch.no_grad():
            output = torch.cat([reconstruct(vae, part)[0] for part in held_out.split(8)])
        whole, inside = psnr(output, held_out), psnr(output, held_out, figure_box(joints))
        console.print(f"held-out classes: {whole:.2f} dB, {inside:.2f} dB inside the figure's box")
