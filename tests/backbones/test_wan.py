import copy
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor

from lofa.adapters import Adapter, LowRankBatch, stack_adapters
from lofa.backbones import Backbone, BackboneConfig, load_backbone
from lofa.conditions import Condition
from lofa.errors import BackboneError
from tests.helpers.adapters import random_adapter
from tests.helpers.tiny_wan import SAMPLING


@pytest.fixture(scope="module")
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)


@pytest.fixture(scope="module")
def adapters(backbone: Backbone) -> list[Adapter]:
    return [random_adapter(backbone.layers, rank=2 + seed, seed=seed) for seed in range(3)]


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(3, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def condition(backbone: Backbone) -> Condition:
    return backbone.encode_prompt(["a figure waves the left arm", "", 'right arm (up), it\'s "fast"!'])


# -- layers --------------------------------------------------------------------------------------------------------


def test_layers_block_by_block(backbone: Backbone) -> None:
    assert [layer.name for layer in backbone.layers[:2]] == [
        "transformer.blocks.0.attn1.to_q",
        "transformer.blocks.0.attn1.to_k",
    ]
    assert len(backbone.layers) == 2 * 8 and backbone.num_depths == 2
    assert backbone.depth_ids.tolist() == [0] * 8 + [1] * 8
    assert backbone.kind_ids.tolist() == list(range(8)) * 2
    assert backbone.kinds[3] == "attn1.to_out.0" and backbone.kinds[7] == "attn2.to_out.0"
    assert {(layer.out_features, layer.in_features) for layer in backbone.layers} == {(96, 96)}


def test_weights(backbone: Backbone) -> None:
    state = backbone.pipeline.transformer.state_dict()
    for index in (0, 11):
        layer = backbone.layers[index]
        weight = backbone.weight(layer.name)
        assert torch.equal(weight, state[layer.name.removeprefix("transformer.") + ".weight"])
        assert not weight.requires_grad
    with pytest.raises(BackboneError, match=r"no adapted layer 'transformer\.proj_out'"):
        backbone.weight("transformer.proj_out")


def test_everything_is_frozen(backbone: Backbone) -> None:
    modules = [backbone.pipeline.transformer, backbone.pipeline.vae, backbone.pipeline.text_encoder]
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    assert not any(module.training for module in modules)


# -- conditions and latents ----------------------------------------------------------------------------------------


def test_prompts_are_encoded_as_in_the_pipeline(backbone: Backbone, condition: Condition) -> None:
    prompts = ["a figure waves the left arm", "", 'right arm (up), it\'s "fast"!']
    expected, _ = backbone.pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=backbone.max_prompt_tokens
    )
    assert condition.tokens.shape == (3, int(condition.lengths.max()), backbone.condition_width)
    assert torch.equal(condition.tokens, expected[:, : condition.tokens.shape[1]])
    for row, length in zip(condition.tokens, condition.lengths, strict=True):
        assert not row[length:].any() and row[:length].any(dim=1).all()
    alone = backbone.encode_prompt(prompts[:1])
    torch.testing.assert_close(alone.row(0), condition.row(0))


def test_a_prompt_too_long_is_named(backbone: Backbone) -> None:
    longest = " ".join(["waves"] * (backbone.max_prompt_tokens - 1))
    assert backbone.encode_prompt([longest]).lengths.tolist() == [backbone.max_prompt_tokens]
    with pytest.raises(BackboneError, match=r"'waves waves.*49 tokens.*at most 48"):
        backbone.encode_prompt(["fine", longest + " waves"])
    with pytest.raises(ValueError, match="no prompts"):
        backbone.encode_prompt([])


def test_latents_are_the_normalised_posterior_mean(backbone: Backbone) -> None:
    clips = torch.randint(0, 256, (10, 5, 32, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_video(clips)
    assert latents.shape == (10, backbone.latent_channels, 2, 4, 2)
    vae = backbone.pipeline.vae
    with torch.no_grad():
        z = vae.encode(clips.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mean
    mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    torch.testing.assert_close(latents, (z - mean) / std)
    torch.testing.assert_close(backbone.encode_video(clips[7:9]), latents[7:9])
    decoded = backbone.decode_latents(latents)
    assert decoded.shape == clips.shape and decoded.dtype == torch.uint8
    assert (backbone.decode_latents(latents[9:]).int() - decoded[9:].int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(1, 4, 32, 32, 3), (1, 5, 40, 32, 3), (1, 5, 32, 0, 3), (1, 0, 32, 32, 3)])
def test_sizes_the_model_would_cut_are_refused(backbone: Backbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(BackboneError, match=r"4k \+ 1 frames"):
        backbone.encode_video(torch.zeros(shape, dtype=torch.uint8))


def test_clips_that_are_no_clips_are_refused(backbone: Backbone) -> None:
    for clips in (torch.zeros(1, 3, 5, 32, 32, dtype=torch.uint8), torch.zeros(1, 5, 32, 32, 3)):
        with pytest.raises(ValueError, match="must be uint8"):
            backbone.encode_video(clips)


# -- loss ----------------------------------------------------------------------------------------------------------


def test_loss_is_flow_matching(backbone: Backbone, latents: Tensor, condition: Condition) -> None:
    sigma, n = torch.tensor([0.1, 0.5, 0.9]), torch.randn(latents.shape)
    tokens = torch.zeros(3, backbone.max_prompt_tokens, 64)
    tokens[:, : condition.tokens.shape[1]] = condition.tokens
    levels = sigma.view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        v = backbone.pipeline.transformer((1 - levels) * latents + levels * n, 1000 * sigma, tokens).sample
    expected = (v - (n - latents)).square().mean(dim=(1, 2, 3, 4))
    found = backbone.denoising_loss(latents, condition, noise_level=sigma, noise=n)
    assert found.shape == (3,) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_loss_draws_from_the_generator_alone(backbone: Backbone, latents: Tensor, condition: Condition) -> None:
    first, again = (
        backbone.denoising_loss(latents, condition, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, again)


def test_each_row_has_its_adapter(
    backbone: Backbone, latents: Tensor, condition: Condition, adapters: list[Adapter]
) -> None:
    given = {"noise_level": torch.tensor([0.3, 0.6, 0.9]), "noise": torch.randn(latents.shape)}
    bare = backbone.denoising_loss(latents, condition, **given)
    together = backbone.denoising_loss(latents, condition, adapters, **given)
    assert torch.equal(backbone.denoising_loss(latents, condition, stack_adapters(adapters), **given), together)
    for n, adapter in enumerate(adapters):
        row = slice(n, n + 1)
        own = {key: value[row] for key, value in given.items()}
        alone = backbone.denoising_loss(latents[row], condition[row], adapter, **own)
        torch.testing.assert_close(together[row], alone)
        assert not torch.allclose(alone, bare[row])
    assert torch.equal(backbone.denoising_loss(latents, condition, **given), bare)


def trainable(adapters: list[Adapter]) -> dict[str, LowRankBatch]:
    batch = stack_adapters(adapters)
    for pair in batch.values():
        for tensor in (pair.A, pair.B, pair.alpha):
            tensor.requires_grad_()
    return batch


def test_gradients_reach_every_adapter_and_checkpointing_keeps_them(
    latents: Tensor, condition: Condition, adapters: list[Adapter], tiny_wan_random: Path
) -> None:
    def gradients(own: Backbone) -> list[Tensor]:
        batch = trainable(adapters)
        loss = own.denoising_loss(latents, condition, batch, generator=torch.Generator().manual_seed(1))
        loss.sum().backward()
        found = [t.grad for pair in batch.values() for t in (pair.A, pair.B, pair.alpha)]
        assert all(g is not None for g in found)
        return [g for g in found if g is not None]

    plain = gradients(load_backbone(tiny_wan_random))
    assert all(g.isfinite().all() for g in plain)
    assert all(g.flatten(1).any(dim=1).all() for g in plain if g.ndim > 1)
    saving = load_backbone(BackboneConfig(name="x", path=str(tiny_wan_random), gradient_checkpointing=True))
    for ours, expected in zip(gradients(saving), plain, strict=True):
        torch.testing.assert_close(ours, expected)


def test_loss_under_autocast_is_close(backbone: Backbone, latents: Tensor, condition: Condition) -> None:
    exact = backbone.denoising_loss(latents, condition, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.denoising_loss(latents, condition, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.02)


def test_a_half_precision_backbone_works_throughout(
    backbone: Backbone, latents: Tensor, condition: Condition, adapters: list[Adapter], tiny_wan_random: Path
) -> None:
    half = load_backbone(tiny_wan_random, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.pipeline.vae.dtype == torch.float32
    given = {"noise_level": torch.tensor([0.3, 0.6, 0.9]), "noise": torch.randn(latents.shape)}
    exact = backbone.denoising_loss(latents, condition, adapters, **given)
    torch.testing.assert_close(half.denoising_loss(latents, condition, adapters, **given), exact, rtol=0.05, atol=0.02)
    clips = half.generate("a figure", adapters[0], seed=1).float()
    assert (clips - backbone.generate("a figure", adapters[0], seed=1).float()).abs().mean() < 3


def test_what_belongs_to_another_backbone_is_refused(
    backbone: Backbone, latents: Tensor, condition: Condition, adapters: list[Adapter]
) -> None:
    pair = next(iter(adapters[0].values()))
    with pytest.raises(BackboneError, match=r"no adapted layer 'unet\.x'"):
        backbone.denoising_loss(latents, condition, Adapter({"unet.x": pair}))
    small = LowRankBatch(torch.ones(1, 2, 8), torch.ones(1, 8, 2), torch.ones(1))
    with pytest.raises(BackboneError, match="another backbone"):
        backbone.denoising_loss(latents, condition, {backbone.layers[0].name: small})
    with pytest.raises(BackboneError, match="another backbone"):
        backbone.denoising_loss(latents, Condition(torch.ones(3, 4, 32), torch.full((3,), 4)))
    with pytest.raises(ValueError, match="as many conditions"):
        backbone.denoising_loss(latents, condition[:2])


# -- samples -------------------------------------------------------------------------------------------------------


def test_generate_is_the_pipeline_with_that_lora(
    backbone: Backbone, adapters: list[Adapter], tiny_wan_random: Path, tmp_path: Path
) -> None:
    adapters[1].save(tmp_path / "a.safetensors")
    own = load_backbone(tiny_wan_random).pipeline
    own.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(7))
    frames = own(
        "a figure waves",
        negative_prompt="left",
        latents=noise,
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=4.0,
        max_sequence_length=backbone.max_prompt_tokens,
        output_type="pt",
    ).frames
    expected = (frames * 255).round().permute(0, 1, 3, 4, 2)
    found = backbone.generate("a figure waves", adapters[1], seed=7, steps=3, guidance=4.0, negative_prompt="left")
    assert found.shape == (1, 5, 32, 32, 3) and found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= 1


def test_rows_don_t_depend_on_their_neighbours(backbone: Backbone, adapters: list[Adapter]) -> None:
    prompts = ["a figure", "waves the left arm", "right"]
    together = backbone.generate(prompts, [adapters[0], None, adapters[2]], seed=[3, 4, 9])
    for row, (prompt, adapter, seed) in enumerate(
        zip(prompts, [adapters[0], None, adapters[2]], [3, 4, 9], strict=True)
    ):
        alone = backbone.generate(prompt, adapter, seed=seed)
        assert (alone[0].int() - together[row].int()).abs().max() <= 1
    assert torch.equal(backbone.generate(prompts, seed=3), backbone.generate(prompts, seed=[3, 4, 5]))


def test_one_prompt_under_many_adapters(backbone: Backbone, adapters: list[Adapter]) -> None:
    clips = backbone.generate("a figure", adapters, seed=[1, 1, 1])
    assert clips.shape[0] == 3
    assert (clips[0] != clips[1]).any()
    base = backbone.generate("a figure", seed=1)
    assert (backbone.generate("a figure", adapters[0], strength=0.0, seed=1).int() - base.int()).abs().max() <= 1
    assert (clips[0] != base[0]).any()


def test_generate_refuses_what_does_not_go_together(backbone: Backbone, adapters: list[Adapter]) -> None:
    for prompts, given, seed in ((["a", "b"], adapters, 0), ([], None, 0), (["a"], [], 0), (["a", "b"], None, [1])):
        with pytest.raises(ValueError, match="don't go together"):
            backbone.generate(prompts, given, seed=seed)
    with pytest.raises(BackboneError, match=r"4k \+ 1 frames"):
        backbone.generate("a", frames=6)
    with pytest.raises(BackboneError, match="steps=0"):
        backbone.generate("a", steps=0)


# -- two experts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experts(tiny_wan_random: Path) -> list[WanTransformer3DModel]:
    """The transformers of a Wan 2.2: the one for high noise, the one for low."""
    models = [WanPipeline.from_pretrained(tiny_wan_random).transformer for _ in range(2)]
    torch.nn.init.normal_(models[1].proj_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return models


@pytest.fixture(scope="module")
def wan_2_2(
    tiny_wan_random: Path, experts: list[WanTransformer3DModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of such a model."""
    folder = tmp_path_factory.mktemp("models") / "wan-2.2"
    parts = WanPipeline.from_pretrained(tiny_wan_random).components
    first, second = (copy.deepcopy(expert) for expert in experts)
    two = WanPipeline(**{**parts, "transformer": first, "transformer_2": second}, boundary_ratio=0.875)
    two.save_pretrained(folder)
    shutil.copy(tiny_wan_random / "lofa.json", folder)
    return folder


def merged(experts: list[WanTransformer3DModel], adapter: Adapter | None) -> list[WanTransformer3DModel]:
    """Copies of the experts with the adapter in their weights."""
    copies = [copy.deepcopy(expert) for expert in experts]
    parts = dict(zip(("transformer", "transformer_2"), copies, strict=True))
    for name, pair in (adapter or {}).items():
        component, _, path = name.partition(".")
        parts[component].get_submodule(path).weight.data += pair.alpha * pair.B @ pair.A
    return copies


def test_wan_2_2_has_the_layers_of_both_experts(wan_2_2: Path) -> None:
    both = load_backbone(wan_2_2)
    assert len(both.layers) == 32 and both.num_depths == 4
    assert both.layers[16].name == "transformer_2.blocks.0.attn1.to_q" and both.layers[16].depth == 2


def test_wan_2_2_sends_each_row_to_the_expert_of_its_level_under_its_adapter(
    wan_2_2: Path, experts: list[WanTransformer3DModel], condition: Condition
) -> None:
    """As the pipeline: levels from the boundary on go to `transformer`, lower ones to `transformer_2`."""
    both = load_backbone(wan_2_2)
    levels = torch.tensor([0.9, 0.2, 0.875, 0.95, 0.874, 0.1])
    x_0, n = torch.randn(2, 6, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    prompt = condition[torch.tensor([0, 1, 2, 2, 1, 0])]
    tokens = torch.nn.functional.pad(prompt.tokens, (0, 0, 0, both.max_prompt_tokens - prompt.tokens.shape[1]))
    adapters = [random_adapter(both.layers, seed=seed) for seed in range(6)]
    cases = {
        "none": (None, None, [None] * 6),
        "one for all": (adapters[0], None, [adapters[0]] * 6),
        "one a row": (adapters, None, adapters),
        "rows of two": (stack_adapters(adapters[:2]), [0, 0, 1, 1, 0, 1], [adapters[n] for n in (0, 0, 1, 1, 0, 1)]),
    }
    for name, (given, rows, of_row) in cases.items():
        chosen = None if rows is None else torch.tensor(rows)
        found = both.denoising_loss(x_0, prompt, given, noise_level=levels, noise=n, rows=chosen)
        for row, adapter in enumerate(of_row):
            model = merged(experts, adapter)[0 if levels[row] >= 0.875 else 1]
            x_t = (1 - levels[row]) * x_0[row] + levels[row] * n[row]
            with torch.no_grad():
                v = model(x_t[None], 1000 * levels[row : row + 1], tokens[row : row + 1]).sample[0]
            expected = (v - (n[row] - x_0[row])).square().mean()
            torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: name + m)


def test_wan_2_2_generates_what_its_pipeline_does(wan_2_2: Path, experts: list[WanTransformer3DModel]) -> None:
    both = load_backbone(wan_2_2)
    adapter = random_adapter(both.layers, seed=1)
    found = both.generate(["a figure", "waves"], [None, adapter], seed=[3, 8], steps=4)
    for row, (prompt, own, seed) in enumerate((("a figure", None, 3), ("waves", adapter, 8))):
        plain = WanPipeline.from_pretrained(wan_2_2)
        plain.set_progress_bar_config(disable=True)
        plain.register_modules(**dict(zip(("transformer", "transformer_2"), merged(experts, own), strict=True)))
        frames = plain(
            prompt,
            negative_prompt="",
            latents=torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed)),
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=4,
            guidance_scale=SAMPLING["guidance"],
            max_sequence_length=both.max_prompt_tokens,
            output_type="pt",
        ).frames[0]
        expected = (frames * 255).round().permute(0, 2, 3, 1)
        assert (found[row].float() - expected).abs().max() <= 1
