"""The tiny autoencoder: training paths agree with diffusers' own, initialisation and measures mean what they say."""

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from lofa.pretrain import vae as room
from lofa.pretrain.vae import (
    figure_box,
    new_vae,
    normalise_latents,
    psnr,
    reconstruct,
    reconstruction_loss,
    scenes,
)
from lofa.worlds import SPLITS


def _pixels(frames: int, seed: int = 0) -> Tensor:
    """(2, 3, frames, 32, 32)"""
    return 0.3 * torch.randn((2, 3, frames, 32, 32), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vae() -> AutoencoderKLWan:
    """Small, with weights in every tap, as after training."""
    torch.manual_seed(0)
    vae = new_vae(base_dim=8, z_dim=4)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return vae.eval()


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_reconstruct_is_encode_then_decode_without_the_clamp(vae: AutoencoderKLWan, frames: int) -> None:
    pixels = _pixels(frames)
    with torch.no_grad():
        output, _ = reconstruct(vae, pixels)
        expected = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    assert output.shape == pixels.shape
    torch.testing.assert_close(output.clamp(-1, 1), expected, rtol=1e-4, atol=1e-5)


def test_single_frames_have_the_gradients_of_the_cached_path(vae: AutoencoderKLWan) -> None:
    vae, pixels = vae.double(), _pixels(1).double()
    names = [name for name, _ in vae.named_parameters()]

    def gradients(output: Tensor) -> list[Tensor]:
        parts = torch.autograd.grad(output.square().mean(), list(vae.parameters()), allow_unused=True)
        return [torch.zeros(()) if part is None else part for part in parts]

    quick = gradients(reconstruct(vae, pixels)[0].clamp(-1, 1))
    cached = gradients(vae.decode(vae.encode(pixels).latent_dist.mode()).sample)
    for name, ours, theirs in zip(names, quick, cached, strict=True):
        torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=1e-6, atol=1e-12, msg=name)


def test_reconstruct_leaves_the_model_as_it_was(vae: AutoencoderKLWan) -> None:
    classes = [type(module) for module in vae.modules()]
    reconstruct(vae, _pixels(1))
    reconstruct(vae, _pixels(5))
    assert [type(module) for module in vae.modules()] == classes


def test_an_untrained_clip_is_a_row_of_images() -> None:
    """Every group of four frames comes out as the image of its last frame, four times: no tap mixes frames yet."""
    torch.manual_seed(0)
    vae, pixels = new_vae(base_dim=8, z_dim=4).eval(), _pixels(9)
    with torch.no_grad():
        output, _ = reconstruct(vae, pixels)
        for frames, shown in ((slice(0, 1), 0), (slice(1, 5), 4), (slice(5, 9), 8)):
            image, _ = reconstruct(vae, pixels[:, :, shown : shown + 1])
            torch.testing.assert_close(
                output[:, :, frames], image.expand_as(output[:, :, frames]), rtol=1e-4, atol=1e-5
            )


def test_posterior_noise_starts_small() -> None:
    vae = new_vae(base_dim=8, z_dim=4)
    with torch.no_grad():
        moments = vae._encode(_pixels(5))
    assert moments.isfinite().all() and (moments[:, 4:] == -6).all()
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_latents_are_normalised_channel_by_channel(vae: AutoencoderKLWan) -> None:
    pixels = torch.cat([_pixels(9, seed) for seed in range(5)])
    normalise_latents(vae, pixels)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
    mean, std = (torch.tensor(vae.config[key]).view(1, 4, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    normal = (latents - mean) / std
    torch.testing.assert_close(normal.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3, 4)), torch.ones(4))


def test_psnr_of_a_known_error() -> None:
    target = torch.zeros(1, 3, 2, 64, 64)
    assert psnr(target + 0.2, target) == pytest.approx(20.0, abs=1e-4)  # 10 log10(2^2 / 0.2^2)
    assert psnr(target + 1.5, target + 0.8) == pytest.approx(20.0, abs=1e-4)  # the output is clamped to 1


def test_psnr_inside_the_figure_counts_the_box_of_each_frame_alone() -> None:
    target = torch.zeros(1, 3, 2, 64, 64)
    # joints span columns 16..32 and rows 32..48 in the first frame, one more to the right in the second
    corners = torch.tensor([[0.25, 0.5], [0.5, 0.75]])
    joints = torch.stack([corners, corners + torch.tensor([1 / 64, 0])])[None]
    inside = torch.zeros_like(target)
    inside[:, :, 0, 32:48, 16:32] = 1
    inside[:, :, 1, 32:48, 17:33] = 1
    box = figure_box(joints, margin=0.0)
    assert psnr(0.2 * inside, target, box) == pytest.approx(20.0, abs=1e-4)
    assert psnr(0.2 * (1 - inside), target, box) == math.inf
    assert psnr(target + 0.2, target, figure_box(joints)) == pytest.approx(psnr(target + 0.2, target), abs=1e-4)


def test_the_loss_weighs_the_figure_more_than_the_background() -> None:
    target = torch.zeros(1, 3, 1, 64, 64)
    target[..., 30:34, 20:44] = 1.0  # a limb
    wrong_limb, wrong_wall = target.clone(), target.clone()
    wrong_limb[..., 30:34, 20:44] = 0.5
    wrong_wall[..., 4:8, 20:44] = 0.5
    assert reconstruction_loss(target, target) == 0
    limb, wall = (reconstruction_loss(wrong, target) for wrong in (wrong_limb, wrong_wall))
    assert limb / wall == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_training_scenes_hold_no_held_out_class(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    drawn: list[str | None] = []
    sample = room.sample_motion

    def record(action: str | None, *args: int) -> object:
        drawn.append(action)
        return sample(action, *args)

    monkeypatch.setattr(room, "sample_motion", record)
    pixels = scenes(40, frames, np.random.default_rng(0))
    assert pixels.shape == (40, 3, frames, 64, 64)
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert {SPLITS[action] for action in drawn if action is not None} <= {"train"}
    assert bool(drawn) == (frames > 1)  # single images show arbitrary poses


def test_the_measure_sees_held_out_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str | None] = []
    batch = room.sample_batch
    monkeypatch.setattr(room, "sample_batch", lambda names, seeds: (drawn.extend(names), batch(names, seeds))[1])
    room._held_out_scenes(3)
    assert {SPLITS[name] for name in drawn if name} <= {"val", "test"}


def test_training_leaves_the_weights_laid_out_for_saving() -> None:
    torch.manual_seed(0)
    vae = new_vae(base_dim=8, z_dim=4)
    room._lay_out(vae, channels_last=True)
    assert not all(parameter.is_contiguous() for parameter in vae.parameters())
    room._lay_out(vae, channels_last=False)
    assert all(parameter.is_contiguous() for parameter in vae.parameters())
