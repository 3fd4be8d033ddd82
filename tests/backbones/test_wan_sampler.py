"""Wan's sampling loop against diffusers' pipeline, and what it does beyond it."""

import copy
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler, WanPipeline
from torch import Tensor, nn

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from tests.helpers.adapters import random_adapter
from tests.helpers.threads import in_threads

EULER = FlowMatchEulerDiscreteScheduler(shift=5.0)
UNIPC = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
PROMPTS, SEEDS, STEPS, GUIDANCE = ["a figure waves", "left"], [3, 8], 5, 4.0


@pytest.fixture
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)


def noise() -> Tensor:
    return torch.stack([torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])


def sampled(backbone: Backbone, adapter: Adapter | None, guidance: float = GUIDANCE, **options: object) -> Tensor:
    """The latents behind what `generate` gives for both prompts."""
    steps: list[tuple[int, int]] = []
    latents: list[Tensor] = []

    def on_step(done: int, of: int, x_t: Tensor) -> None:
        steps.append((done, of))
        latents.append(x_t)

    options |= {"steps": STEPS, "guidance": guidance, "negative_prompt": "right", "on_step": on_step}
    clips = backbone.generate(PROMPTS, adapter, seed=SEEDS, **options)
    assert steps == [(done, STEPS) for done in range(1, STEPS + 1)]
    assert torch.equal(clips, backbone.decode_latents(latents[-1]))
    return latents[-1]


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
@pytest.mark.parametrize("kind", ["one transformer", "two transformers", "a timestep for each token"])
@pytest.mark.parametrize("scheduler", [EULER, UNIPC], ids=["euler", "unipc"])
def test_it_is_the_pipeline_bit_for_bit(
    scheduler: SchedulerMixin, kind: str, guidance: float, tiny_wan_random: Path, tmp_path: Path
) -> None:
    parts = WanPipeline.from_pretrained(tiny_wan_random).components | {"scheduler": scheduler}
    if kind == "two transformers":
        parts["transformer_2"] = copy.deepcopy(parts["transformer"])
        nn.init.normal_(parts["transformer_2"].proj_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    boundary, expand = 0.875 if kind == "two transformers" else None, kind == "a timestep for each token"
    WanPipeline(**parts, boundary_ratio=boundary, expand_timesteps=expand).save_pretrained(tmp_path)
    shutil.copy(tiny_wan_random / "lofa.json", tmp_path)
    backbone = load_backbone(tmp_path)
    adapter = random_adapter(backbone.layers, seed=1)
    found = sampled(backbone, adapter, guidance)
    with backbone.slots.attached(backbone.adapter_batch(adapter), torch.zeros(2, dtype=torch.int64)):
        expected = backbone.pipeline(
            PROMPTS,
            negative_prompt=["right"] * 2,
            latents=noise(),
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            max_sequence_length=backbone.max_prompt_tokens,
            output_type="latent",
        ).frames
    assert torch.equal(found, expected)
    assert not torch.equal(found, sampled(backbone, None, guidance)), "the adapter does something"


def by_hand(backbone: Backbone, adapter: Adapter | None, negative: Adapter | None) -> Tensor:
    """Euler's steps down the shifted levels, the adapters of both sides merged into copies of the transformer."""
    sides = []
    for prompts, own in ((PROMPTS, adapter), (["right"] * 2, negative)):
        model = copy.deepcopy(backbone.denoiser["transformer"])
        for name, pair in (own or {}).items():
            model.get_submodule(name.removeprefix("transformer.")).weight.data += pair.delta_weight()
        tokens = backbone.encode_prompt(prompts).tokens
        sides.append((model, nn.functional.pad(tokens, (0, 0, 0, backbone.max_prompt_tokens - tokens.shape[1]))))
    scheduler = copy.deepcopy(EULER)
    scheduler.set_timesteps(STEPS)
    x = noise()
    for sigma, lower in zip(scheduler.sigmas, scheduler.sigmas[1:], strict=False):
        with torch.no_grad():
            v, other = (model(x, (1000 * sigma).expand(2), tokens).sample for model, tokens in sides)
        x = x + (lower - sigma) * (other + GUIDANCE * (v - other))
    return x


def test_guidance_leads_away_from_the_negative_adapter(backbone: Backbone) -> None:
    adapter, other = (random_adapter(backbone.layers, seed=seed) for seed in range(2))
    cases = {
        "same": ({}, adapter),
        "another": ({"negative_adapter": other}, other),
        "none": ({"negative_adapter": None}, None),
    }
    for name, (given, negative) in cases.items():
        expected = by_hand(backbone, adapter, negative)
        torch.testing.assert_close(
            sampled(backbone, adapter, **given), expected, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: name + m
        )
    alone = sampled(backbone, None, negative_adapter=other)
    torch.testing.assert_close(alone, by_hand(backbone, None, other), rtol=1e-3, atol=1e-4)
    assert torch.equal(sampled(backbone, adapter, 1.0), sampled(backbone, adapter, 1.0, negative_adapter=None))
    assert torch.equal(sampled(backbone, None), sampled(backbone, None, negative_adapter=None))


def test_strength_is_that_of_both_sides(backbone: Backbone) -> None:
    adapter, other = (random_adapter(backbone.layers, seed=seed) for seed in range(2))
    weak = [Adapter({n: type(p)(p.A, p.B, 0.25 * p.alpha) for n, p in one.items()}) for one in (adapter, other)]
    found = sampled(backbone, adapter, strength=0.25, negative_adapter=other)
    torch.testing.assert_close(found, sampled(backbone, weak[0], negative_adapter=weak[1]))


def test_two_threads_generate_with_two_adapters_on_one_backbone(backbone: Backbone) -> None:
    given: list[Adapter | None] = [random_adapter(backbone.layers, seed=1), None]
    alone = [sampled(backbone, adapter) for adapter in given]
    barrier, found = threading.Barrier(2), {}

    def meet(*_: object) -> None:
        barrier.wait(timeout=20)

    for block in backbone.denoiser["transformer"].blocks:  # both are in the same block whenever either is
        block.register_forward_pre_hook(meet)

    def run(n: int) -> Callable[[], None]:
        return lambda: found.update({n: sampled(backbone, given[n])})

    in_threads([run(0), run(1)])
    assert all(torch.equal(found[n], alone[n]) for n in range(2))
