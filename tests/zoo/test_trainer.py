from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lofa.adapters import LowRankBatch
from lofa.backbones import Backbone, BackboneConfig, load_backbone
from lofa.diffusion import FlowMatching
from lofa.errors import ConfigError
from lofa.zoo import Clips, LoraJob, LoraOptions, LoraResult, train_loras
from lofa.zoo.stream import DrawStream
from lofa.zoo.trainer import Batch
from tests.zoo.sets import SHAPE, clips, jobs

OPTIONS = LoraOptions(rank=2, steps=4, batch=4, clips_per_step=2, lr=1e-2, warmup=1, probe_levels=2)


def deltas(result: LoraResult) -> torch.Tensor:
    assert result.adapter is not None
    return torch.cat([result.adapter.delta_weight(name).flatten() for name in result.adapter])


def test_a_lora_is_the_same_in_any_batch(backbone: Backbone) -> None:
    asked = jobs(backbone, 4)
    together = train_loras(backbone, asked, OPTIONS)
    alone = train_loras(backbone, asked[::-1], replace(OPTIONS, batch=1))[::-1]
    for one, other, job in zip(together, alone, asked, strict=True):
        assert one.id == other.id == job.id
        torch.testing.assert_close(deltas(one), deltas(other), rtol=1e-3, atol=1e-6)
        assert one.first_loss == pytest.approx(other.first_loss, rel=1e-5)
        assert one.final_loss == pytest.approx(other.final_loss, rel=1e-5)
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
        assert len(one.losses) == one.steps == OPTIONS.steps


def test_equals_training_one_lora_by_hand(backbone: Backbone) -> None:
    """Separate parameters, torch's own clipping and AdamW; the stacked way must not differ from it."""
    job = jobs(backbone, 3)[2]
    options = replace(OPTIONS, clip_norm=0.01)
    result = train_loras(backbone, [job], options)[0]

    generator = torch.Generator().manual_seed(options.seed)
    pairs, parameters = {}, []
    for layer in backbone.layers:
        bound = layer.in_features**-0.5
        A = torch.empty(options.rank * layer.in_features).uniform_(-bound, bound, generator=generator)
        A = torch.nn.Parameter(A.view(1, options.rank, layer.in_features))
        B = torch.nn.Parameter(torch.zeros(1, layer.out_features, options.rank))
        parameters += [A, B]
        pairs[layer.name] = (A, B)
    optimizer = torch.optim.AdamW(parameters, weight_decay=options.weight_decay)
    shape = (backbone.latent_channels, *SHAPE)
    stream = DrawStream([job.seed], [len(job.clips)], 2, shape, FlowMatching(5.0), torch.device("cpu"))
    for step in range(options.steps):
        draw = stream.next()
        adapters = {name: LowRankBatch(A, B, torch.ones(1)) for name, (A, B) in pairs.items()}
        picked = draw.clips[0]
        loss = backbone.denoising_loss(
            job.clips.latents[picked],
            job.clips.condition[picked],
            adapters,
            noise_level=draw.levels[0],
            noise=draw.noise[0],
        ).mean()
        assert loss.item() == pytest.approx(result.losses[step], rel=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.param_groups[0]["lr"] = options.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
    by_hand = torch.cat([(B[0] @ A[0]).flatten() for A, B in pairs.values()]).detach()
    torch.testing.assert_close(deltas(result), by_hand, rtol=1e-3, atol=1e-6)


def test_a_step_in_parts_has_the_gradient_of_the_whole(backbone: Backbone) -> None:
    options = replace(OPTIONS, clips_per_step=3)
    gradients, losses = [], []
    for parts in (1, 2, 3):
        batch = Batch(backbone, backbone.layers, jobs(backbone, 3), replace(options, accumulate=parts))
        batch.optimizer.param_groups[0]["lr"] = 1e-2
        batch.step(1, batch.pool)  # B is no longer zero, nor is the gradient of A
        losses.append(batch.backward(batch.pool))
        assert batch.loras.flat.grad is not None
        gradients.append(batch.loras.flat.grad.clone())
    assert gradients[0].count_nonzero() > 0.9 * gradients[0].numel()
    for gradient, loss in zip(gradients[1:], losses[1:], strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


def test_recomputed_activations_give_the_same_loras(backbone: Backbone, tiny_wan_random: Path) -> None:
    saving = load_backbone(BackboneConfig(name="x", path=str(tiny_wan_random), gradient_checkpointing=True))
    plain, recomputed = (train_loras(one, jobs(backbone, 2), OPTIONS) for one in (backbone, saving))
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(deltas(one), deltas(other), rtol=1e-4, atol=1e-7)
        assert one.losses == pytest.approx(other.losses, rel=1e-5)


def test_training_lowers_the_loss_and_leaves_the_backbone_alone(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.pipeline.transformer.state_dict().items()}
    steps: list[tuple[int, int]] = []
    options = replace(OPTIONS, steps=15, lr=2e-2)
    results = train_loras(backbone, jobs(backbone, 2), options, lambda loras, step: steps.append((loras, step)))
    assert steps == [(2, step) for step in range(1, 16)]
    for result in results:
        assert result.final_loss < result.first_loss
        assert result.adapter is not None and set(result.adapter) == {layer.name for layer in backbone.layers}
    after = backbone.pipeline.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in backbone.pipeline.transformer.parameters())


def test_the_first_loss_is_that_of_the_backbone_without_adapters(backbone: Backbone) -> None:
    job = LoraJob("one", clips(backbone, 1, 3), seed=1)
    first = train_loras(backbone, [job], replace(OPTIONS, steps=1))[0].first_loss
    levels = backbone.process.levels[[250, 750]]
    noise = torch.stack([torch.randn(job.clips.latents.shape[1:], generator=g) for g in _probe_generators(2)])
    latents = job.clips.latents.expand(2, -1, -1, -1, -1)
    expected = backbone.denoising_loss(latents, job.clips.condition, noise_level=levels, noise=noise).mean()
    assert first == pytest.approx(expected.item(), rel=1e-5)


def _probe_generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(20_251_208 + row) for row in range(count)]


def test_the_best_held_out_step_is_kept(backbone: Backbone) -> None:
    options = replace(OPTIONS, steps=5, lr=0.1, validate_every=2)
    for result in train_loras(backbone, jobs(backbone, 3, held_out=2), options):
        steps, losses = zip(*result.held_losses, strict=True)
        assert steps == (0, 2, 4, 5)
        assert result.held_first_loss == losses[0]
        assert result.held_final_loss == min(losses[1:]) == dict(result.held_losses)[result.steps]


def test_patience_ends_a_lora_without_changing_what_it_kept(backbone: Backbone) -> None:
    options = replace(OPTIONS, steps=7, warmup=0, schedule="constant", validate_every=1, clips_per_step=1)
    asked = jobs(backbone, 4, held_out=1)
    whole = train_loras(backbone, asked, options)
    early = train_loras(backbone, asked, replace(options, patience=2))
    assert len({len(result.losses) for result in early}) > 1, "the example should stop its LoRAs at different steps"
    for full, short in zip(whole, early, strict=True):
        count = len(short.losses)
        assert short.losses == pytest.approx(full.losses[:count], rel=1e-3)
        if count < options.steps:
            assert short.steps == count - 2
        best = min(full.held_losses[1 : count + 1], key=lambda check: check[1])
        assert short.held_final_loss == pytest.approx(best[1], rel=1e-3)


def test_a_lora_that_is_not_finite_fails_alone(backbone: Backbone) -> None:
    asked = jobs(backbone, 3)
    bad = Clips(torch.full_like(asked[1].clips.latents, 3e38), asked[1].clips.condition)
    results = train_loras(backbone, [asked[0], replace(asked[1], clips=bad), asked[2]], OPTIONS)
    assert results[1].adapter is None and "not finite at step 1" in (results[1].failure or "")
    good = train_loras(backbone, [asked[0], asked[2]], OPTIONS)
    torch.testing.assert_close(deltas(results[0]), deltas(good[0]), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(deltas(results[2]), deltas(good[1]), rtol=1e-3, atol=1e-6)


def test_jobs_of_different_latent_shapes_share_a_call(backbone: Backbone) -> None:
    small, other = jobs(backbone, 2)
    wide = Clips(torch.randn(2, backbone.latent_channels, 1, 4, 8), other.clips.condition)
    results = train_loras(backbone, [small, replace(other, clips=wide), small], OPTIONS)
    assert [result.id for result in results] == ["job0", "job1", "job0"]
    assert torch.equal(deltas(results[0]), deltas(results[2]))


def test_only_the_kinds_asked_for_get_a_lora(backbone: Backbone) -> None:
    options = replace(OPTIONS, steps=1, kinds=("attn1.to_q", "attn2.to_out.0"))
    result = train_loras(backbone, jobs(backbone, 1), options)[0]
    assert result.adapter is not None
    expected = {layer.name for layer in backbone.layers if layer.kind in options.kinds}
    assert set(result.adapter) == expected and expected
    with pytest.raises(ConfigError, match=r"no layers 'attn9'; it has attn1.to_q"):
        train_loras(backbone, jobs(backbone, 1), replace(OPTIONS, kinds=("attn9",)))


def test_clips_and_conditions_must_agree(backbone: Backbone) -> None:
    made = clips(backbone, 2, 0)
    with pytest.raises(ValueError, match="1 clips but 2 conditions"):
        Clips(made.latents[:1], made.condition)


def test_a_lora_goes_on_from_the_adapter_it_is_given(backbone: Backbone) -> None:
    (job,) = jobs(backbone, 1, held_out=2)
    options = replace(OPTIONS, validate_every=2, lr=3e-2)
    (first,) = train_loras(backbone, [job], options)
    assert first.adapter is not None and first.held_losses[0][0] == 0
    (again,) = train_loras(backbone, [replace(job, start=first.adapter)], options)
    assert again.held_losses[0][1] == pytest.approx(first.held_final_loss, rel=1e-5)
    (still,) = train_loras(backbone, [replace(job, start=first.adapter)], replace(options, lr=1e-12, weight_decay=0))
    torch.testing.assert_close(deltas(still), deltas(first), rtol=1e-4, atol=1e-6)
