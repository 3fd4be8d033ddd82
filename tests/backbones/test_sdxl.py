"""SDXL against diffusers' pipeline: prompts, latents, loss, samples, adapters, names."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import Condition
from lofa.errors import BackboneError
from tests.helpers.adapters import random_adapter
from tests.helpers.tiny_sdxl import make_tiny_sdxl

PROMPTS, SEEDS, STEPS, GUIDANCE = ["a red square", "blue"], [3, 8], 3, 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def adapters(backbone: Backbone) -> list[Adapter]:
    return [random_adapter(backbone.layers, rank=2 + seed, seed=seed) for seed in range(2)]


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(3, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def condition(backbone: Backbone) -> Condition:
    return backbone.encode_prompt(["a red square", "", "blue"])


def test_layers_follow_the_data(backbone: Backbone) -> None:
    blocks = list(dict.fromkeys(layer.name.rpartition(".attn")[0] for layer in backbone.layers))
    assert blocks == [
        f"unet.{block}.attentions.{place}.transformer_blocks.{inner}"
        for block, places in (("down_blocks.1", 1), ("mid_block", 1), ("up_blocks.0", 2))
        for place in range(places)
        for inner in range(2)
    ]
    assert backbone.num_depths == len(blocks) and len(backbone.layers) == 8 * len(blocks)
    assert {(layer.out_features, layer.in_features) for layer in backbone.layers} == {(32, 32), (32, 40)}


def test_weights_are_the_network_s(backbone: Backbone, pipeline: StableDiffusionXLPipeline) -> None:
    state = pipeline.unet.state_dict()
    for layer in backbone.layers[::9]:
        assert torch.equal(backbone.weight(layer.name), state[layer.name.removeprefix("unet.") + ".weight"])


def test_prompts_are_encoded_as_in_the_pipeline(condition: Condition, pipeline: StableDiffusionXLPipeline) -> None:
    tokens, _, pooled, _ = pipeline.encode_prompt(["a red square", "", "blue"], do_classifier_free_guidance=False)
    torch.testing.assert_close(condition.tokens, tokens)
    torch.testing.assert_close(condition.extras["pooled"], pooled)


def test_a_prompt_too_long_is_named(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="'red red.*at most 24"):
        backbone.encode_prompt(["red " * 30])


def test_latents_are_the_scaled_posterior_mean(backbone: Backbone, pipeline: StableDiffusionXLPipeline) -> None:
    images = torch.randint(0, 256, (2, 1, 32, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_video(images)
    with torch.no_grad():
        z = pipeline.vae.encode(images[:, 0].permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(latents[:, :, 0], z * pipeline.vae.config.scaling_factor)
    assert latents.shape == (2, *backbone.latent_shape(1, 32, 16))
    assert backbone.decode_latents(latents).shape == images.shape


@pytest.mark.parametrize("shape", [(5, 32, 32), (1, 34, 32), (1, 32, 0)])
def test_what_is_no_image_is_refused(backbone: Backbone, shape: tuple[int, int, int]) -> None:
    with pytest.raises(BackboneError, match="makes images: one frame"):
        backbone.encode_video(torch.zeros(1, *shape, 3, dtype=torch.uint8))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_loss_is_the_scheduler_s(prediction: str, latents: Tensor, condition: Condition, tmp_path: Path) -> None:
    backbone = load_backbone(make_tiny_sdxl(tmp_path / "m", prediction=prediction))
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "m")
    noise, t = torch.randn(latents.shape), torch.tensor([100, 500, 900])
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    with torch.no_grad():
        out = pipeline.unet(
            scheduler.add_noise(latents, noise, t)[:, :, 0],
            t,
            condition.tokens,
            added_cond_kwargs={
                "text_embeds": condition.extras["pooled"],
                "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]]).expand(3, -1),
            },
        ).sample
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, t)
    expected = (out - target[:, :, 0]).square().mean(dim=(1, 2, 3))
    found = backbone.denoising_loss(latents, condition, noise_level=t / 1000, noise=noise)
    torch.testing.assert_close(found, expected)


def sampled(backbone: Backbone, adapter: Adapter | list[Adapter] | None, seeds: list[int], **values: object) -> Tensor:
    latents: list[Tensor] = []
    backbone.generate(
        values.pop("prompt", PROMPTS), adapter, seed=seeds, steps=STEPS, guidance=GUIDANCE,
        on_step=lambda done, of, x_t: latents.append(x_t), **values,
    )  # fmt: skip
    return latents[-1]


@pytest.mark.parametrize("negative", ["", "blue"])
@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_it_samples_as_the_pipeline(scheduler: type, negative: str, folder: Path, adapters: list[Adapter]) -> None:
    backbone, pipeline = load_backbone(folder), StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    backbone._parts["scheduler"] = pipeline.scheduler
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
    expected = pipeline(
        PROMPTS,
        negative_prompt=[negative] * 2 if negative else None,
        latents=noise,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
    ).images
    found = sampled(backbone, None, SEEDS, negative_prompt=negative)
    torch.testing.assert_close(found[:, :, 0], expected)
    assert not torch.allclose(found, sampled(backbone, adapters[0], SEEDS, negative_prompt=negative), atol=1e-4)


def test_two_prompts_with_two_adapters_are_two_calls(backbone: Backbone, adapters: list[Adapter]) -> None:
    both = sampled(backbone, adapters, SEEDS)
    for row in range(2):
        alone = sampled(backbone, adapters[row], [SEEDS[row]], prompt=PROMPTS[row])
        torch.testing.assert_close(both[row], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", ["diffusers", "kohya", "peft"])
def test_files_load_in_the_pipeline(
    format: str, folder: Path, tmp_path: Path, latents: Tensor, condition: Condition
) -> None:
    backbone, pipeline = load_backbone(folder), StableDiffusionXLPipeline.from_pretrained(folder)
    ranks = {layer.name: 2 + place % 3 for place, layer in enumerate(backbone.layers)}
    adapter = random_adapter(backbone.layers, rank=2, alpha=0.3, ranks=ranks)  # alpha differs, too
    (file, *_) = adapter.save(tmp_path / ("a" if format == "peft" else "a.safetensors"), format=format)
    again = Adapter.load(file)
    assert adapter.distance(dict(again.items())) < 1e-6
    if format == "peft":
        return  # a folder of PEFT is for a network, not for a pipeline
    pipeline.load_lora_weights(file)
    t, noise = torch.tensor([100, 500, 900]), torch.randn(latents.shape)
    x_t = backbone.process.add_noise(latents, noise, t / 1000)
    with torch.no_grad():
        added = {
            "text_embeds": condition.extras["pooled"],
            "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]]).expand(3, -1),
        }
        expected = pipeline.unet(x_t[:, :, 0], t, condition.tokens, added_cond_kwargs=added).sample
        batch = backbone.adapter_batch(adapter)
        found = backbone.predict(x_t, t / 1000, condition, batch, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found[:, :, 0], expected, rtol=1e-5, atol=1e-5)
