import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler

from lofa.backbones import BackboneConfig, bare_backbone, known_backbones, load_backbone, read_config
from lofa.diffusion import FlowMatching
from lofa.errors import BackboneError, ConfigError
from tests.helpers.tiny_wan import SAMPLING, make_tiny_wan


@pytest.mark.parametrize("name", known_backbones())
def test_every_config_reads_and_hub_size_ones_build_on_meta(name: str) -> None:
    config = read_config(name)
    assert config.name == name
    if config.architecture is not None:
        backbone = bare_backbone(config)
        blocks = config.architecture["num_layers"]
        width = config.architecture["num_attention_heads"] * config.architecture["attention_head_dim"]
        assert len(backbone.layers) == blocks * len(config.kinds) and backbone.num_depths == blocks
        assert {(layer.out_features, layer.in_features) for layer in backbone.layers} == {(width, width)}
        assert backbone.device.type == "meta" and backbone.weight(backbone.layers[0].name).is_meta


def test_the_paper_s_backbone_has_240_layers_of_1536() -> None:
    backbone = bare_backbone(read_config("wan2.1-t2v-1.3b"))
    assert len(backbone.layers) == 240
    assert (backbone.layers[0].out_features, backbone.latent_channels, backbone.condition_width) == (1536, 16, 4096)


def test_meta_needs_an_architecture(tiny_wan_random: Path) -> None:
    with pytest.raises(ConfigError, match="architecture"):
        bare_backbone(BackboneConfig(name="x", path=str(tiny_wan_random)))


@pytest.mark.parametrize("change", [{"dtype": "float8"}, {"family": "sora"}])
def test_wrong_values_name_the_key(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"backbone.{next(iter(change))}"):
        BackboneConfig(**{"name": "x", "path": "x", **change})


def test_unknown_kinds_are_named(tiny_wan_random: Path) -> None:
    with pytest.raises(BackboneError, match=r"attn9\.to_q.*attn1\.to_q"):
        load_backbone(BackboneConfig(name="x", path=str(tiny_wan_random), kinds=("attn9.to_q",)))


def test_sampling_defaults_lie_beside_the_model(tiny_wan_random: Path, tmp_path: Path) -> None:
    assert vars(load_backbone(tiny_wan_random).sampling) == SAMPLING
    folder = tmp_path / "m"
    shutil.copytree(tiny_wan_random, folder)
    (folder / "lofa.json").unlink()
    assert load_backbone(folder).sampling.height == 480
    (folder / "lofa.json").write_text(json.dumps({"frames": 5}))
    with pytest.raises(BackboneError, match="lofa.json"):
        load_backbone(folder)


def test_fingerprint_tells_backbones_apart_and_not_precisions(tiny_wan_random: Path, tmp_path: Path) -> None:
    first = load_backbone(tiny_wan_random)
    half = load_backbone(tiny_wan_random, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.fingerprint == first.fingerprint
    shutil.copytree(tiny_wan_random, tmp_path / "moved")
    assert load_backbone(tmp_path / "moved").fingerprint == first.fingerprint
    assert load_backbone(make_tiny_wan(tmp_path / "other", seed=1)).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("transformer", "cross_attn_norm", False), ("transformer", "eps", 1e-3), ("vae", "latents_std", [2.0] * 16)],
)
def test_the_same_weights_under_another_configuration_are_another_backbone(
    part: str, key: str, value: object, tiny_wan_random: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_wan_random, tmp_path / "changed")
    file = tmp_path / "changed" / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert load_backbone(tmp_path / "changed").fingerprint != load_backbone(tiny_wan_random).fingerprint


@pytest.mark.parametrize(
    ("scheduler", "shift"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=7.0), 7.0),
        (UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0), 3.0),
        (DDIMScheduler(), 5.0),  # says nothing: that of the published training
    ],
)
def test_the_shift_of_the_noise_levels_is_the_scheduler_s(
    scheduler: SchedulerMixin, shift: float, tiny_wan_random: Path, tmp_path: Path
) -> None:
    """Wan's own repositories have a UniPC scheduler, which calls it flow_shift."""
    backbone = load_backbone(tiny_wan_random)
    backbone.pipeline.register_modules(scheduler=scheduler)
    assert backbone.process == FlowMatching(shift)
    latents, condition = torch.zeros(1, 16, 2, 4, 4), backbone.encode_prompt(["a figure"])
    drawn = backbone.denoising_loss(latents, condition, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    s = 1 - torch.randint(1000, (1,), generator=generator) / 1000
    noise = torch.randn(latents.shape, generator=generator)
    level = shift * s / (1 + (shift - 1) * s)
    expected = backbone.denoising_loss(latents, condition, noise_level=level, noise=noise)
    torch.testing.assert_close(drawn, expected)


def test_gradient_checkpointing_is_switched_on_by_the_config(tiny_wan_random: Path) -> None:
    config = BackboneConfig(name="x", path=str(tiny_wan_random), gradient_checkpointing=True)
    assert load_backbone(config).pipeline.transformer.is_gradient_checkpointing


def refused(name: str | Path | BackboneConfig, *parts: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load_backbone(name)
    for part in parts:
        assert part in str(caught.value)


def test_what_can_not_be_loaded_is_named(tiny_wan_random: Path, tmp_path: Path) -> None:
    refused("tiny-wam", "tiny-wam", "tiny-wan, wan2.1-t2v-1.3b")
    refused(tmp_path / "none", str(tmp_path / "none"))
    refused(BackboneConfig(name="x", path="gone"), "gone")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "model_index.json", "found nothing")
    folder = tmp_path / "other"
    shutil.copytree(tiny_wan_random, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    refused(folder, str(folder), "FluxPipeline", "WanPipeline")
    cut = tmp_path / "cut"
    shutil.copytree(tiny_wan_random, cut)
    weights = cut / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(cut, str(cut))


def test_without_the_hub_the_error_says_which_folder_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "backbone.path=<folder>")
    refused("nobody/nothing", "nobody/nothing", "backbone.path=<folder>")
