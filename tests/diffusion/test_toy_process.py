"""Another process is one class: it trains LoRAs and has a loss, and nothing else knows what it predicts."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lofa.backbones import Backbone, load_backbone
from lofa.diffusion import DiffusionProcess, draw_noise
from lofa.zoo import LoraOptions, train_loras
from tests.zoo.sets import jobs


class Epsilon(DiffusionProcess):
    """x_t = cos x_0 + sin n on 40 levels; the noise is predicted, timesteps count from 1 to 40."""

    @property
    def levels(self) -> Tensor:
        return torch.arange(40, 0, -1) / 40

    def add_noise(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        angle = (level * torch.pi / 2).view(-1, 1, 1, 1, 1)
        return angle.cos() * x_0 + angle.sin() * noise

    def target(self, x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise

    def timestep(self, level: Tensor) -> Tensor:
        return level * 40


@pytest.fixture
def backbone(tiny_wan_random: Path) -> Backbone:
    loaded = load_backbone(tiny_wan_random)
    loaded.process = Epsilon()
    return loaded


def test_its_loss_is_that_of_its_own_formulas(backbone: Backbone) -> None:
    generator = torch.Generator().manual_seed(3)
    x_0, n = (torch.randn(2, backbone.latent_channels, 2, 4, 4, generator=generator) for _ in range(2))
    condition, level = backbone.encode_prompt(["a figure waves", "a figure"]), torch.tensor([0.25, 0.75])
    found = backbone.denoising_loss(x_0, condition, noise_level=level, noise=n)
    c, s = (part.view(-1, 1, 1, 1, 1) for part in ((level * torch.pi / 2).cos(), (level * torch.pi / 2).sin()))
    missing = backbone.max_prompt_tokens - condition.tokens.shape[1]
    tokens = torch.nn.functional.pad(condition.tokens, (0, 0, 0, missing))
    predicted = backbone.denoiser["transformer"](c * x_0 + s * n, torch.tensor([10.0, 30.0]), tokens).sample
    torch.testing.assert_close(found, (predicted - n).square().mean((1, 2, 3, 4)))


def test_it_trains_a_lora_on_its_own_levels(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    denoising_loss = type(backbone).denoising_loss

    def noted(self: Backbone, *args: object, noise_level: Tensor, **options: object) -> Tensor:
        seen.append(noise_level)
        return denoising_loss(self, *args, noise_level=noise_level, **options)

    monkeypatch.setattr(type(backbone), "denoising_loss", noted)
    options = LoraOptions(rank=2, steps=15, clips_per_step=2, lr=2e-2, probe_levels=2)
    for result in train_loras(backbone, jobs(backbone, 2), options):
        assert result.failure is None and result.final_loss < result.first_loss
    assert torch.isin(torch.cat(seen), Epsilon().levels).all()


def test_its_training_draws_weigh_all_levels_alike() -> None:
    draw = draw_noise(Epsilon(), ["a"], (1,), seed=0, step=0, draws=4)
    assert torch.isin(draw.level, Epsilon().levels).all() and draw.weight.tolist() == [1, 1, 1, 1]
