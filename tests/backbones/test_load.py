import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler

from lofa.backbones import BackboneConfig, bare_backbone, known_backbones, load_backbone, read_config
from lofa.backbones.fingerprint import hash_samples, sample_weights
from lofa.diffusion import FlowMatching
from lofa.errors import BackboneError, ConfigError
from tests.helpers.tiny_wan import SAMPLING, make_tiny_wan

WEIGHTS = "diffusion_pytorch_model.safetensors"
FINGERPRINT_OF_0_1 = "fa35de858ecab09f"


@pytest.mark.parametrize("name", known_backbones())
def test_every_config_reads_and_hub_size_ones_build_on_meta(name: str) -> None:
    config = read_config(name)
    assert config.name == name
    if config.architecture is not None:
        backbone = bare_backbone(config)
        assert backbone.device.type == "meta" and backbone.weight(backbone.layers[0].name).is_meta
        if config.family != "wan":
            return
        values = config.architecture["transformer"]
        blocks, width = values["num_layers"], values["num_attention_heads"] * values["attention_head_dim"]
        blocks *= 1 + ("transformer_2" in config.architecture)
        assert len(backbone.layers) == blocks * len(config.kinds) and backbone.num_depths == blocks
        assert {(layer.out_features, layer.in_features) for layer in backbone.layers} == {(width, width)}


def test_the_paper_s_backbone_has_240_layers_of_1536() -> None:
    backbone = bare_backbone(read_config("wan2.1-t2v-1.3b"))
    assert len(backbone.layers) == 240
    assert (backbone.layers[0].out_features, backbone.latent_channels, backbone.condition_width) == (1536, 16, 4096)


def test_sdxl_has_560_layers_of_four_shapes() -> None:
    backbone = bare_backbone(read_config("sdxl-1.0"))
    assert len(backbone.layers) == 560 and backbone.num_depths == 70
    assert {layer.shape for layer in backbone.layers} == {(640, 640), (640, 2048), (1280, 1280), (1280, 2048)}
    assert (backbone.latent_channels, backbone.condition_width) == (4, 2048)


def test_meta_needs_an_architecture(tiny_wan_random: Path) -> None:
    with pytest.raises(ConfigError, match="architecture"):
        bare_backbone(BackboneConfig(name="x", path=str(tiny_wan_random)))


def test_wrong_values_name_the_key(tiny_wan_random: Path) -> None:
    with pytest.raises(ConfigError, match="^dtype=float8"):
        BackboneConfig(name="x", path="x", dtype="float8")
    with pytest.raises(BackboneError, match=r"backbone.family=sora: .* wan \(WanPipeline\)"):
        load_backbone(BackboneConfig(name="x", path=str(tiny_wan_random), family="sora"))


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


def changed(folder: Path, copy: Path, part: str, **values: object) -> Path:
    """A copy of a model with other values in a configuration."""
    shutil.copytree(folder, copy)
    file = copy / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return copy


def test_fingerprint_tells_denoisers_apart_and_not_precisions(tiny_wan_random: Path, tmp_path: Path) -> None:
    first = load_backbone(tiny_wan_random)
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{8}", first.fingerprint)
    half = load_backbone(tiny_wan_random, dtype=torch.bfloat16)
    assert half.fingerprint == first.fingerprint
    shutil.copytree(tiny_wan_random, tmp_path / "moved")
    assert load_backbone(tmp_path / "moved").fingerprint == first.fingerprint
    other = load_backbone(make_tiny_wan(tmp_path / "other", seed=1))
    assert other.fingerprint != first.fingerprint and not first.accepts(other.fingerprint)
    for backbone in (first, half):  # what was loaded is what lies in the files
        parts = {"transformer": sample_weights(backbone.denoiser["transformer"])}
        assert first.fingerprint.endswith(hash_samples(parts))
    assert not any(first.accepts(value) for value in (None, "", "0" * 16, first.fingerprint[:4]))


@pytest.mark.parametrize(("key", "value"), [("cross_attn_norm", False), ("eps", 1e-3)])
def test_the_same_weights_under_another_configuration_are_another_backbone(
    key: str, value: object, tiny_wan_random: Path, tmp_path: Path
) -> None:
    own = load_backbone(tiny_wan_random).fingerprint
    assert load_backbone(changed(tiny_wan_random, tmp_path / "a", "transformer", **{key: value})).fingerprint != own
    added = changed(tiny_wan_random, tmp_path / "b", "transformer", _made_by="another diffusers", new_key=None)
    assert load_backbone(added).fingerprint == own
    vae = changed(tiny_wan_random, tmp_path / "c", "vae", latents_std=[2.0] * 16)
    assert load_backbone(vae).fingerprint == own  # it is the denoiser's alone


def test_a_fingerprint_without_weights_is_the_configuration_s(tiny_wan_random: Path, tmp_path: Path) -> None:
    """Data of one who had no weights fit every model of that configuration, and the other way round."""
    shutil.copytree(tiny_wan_random, tmp_path / "m", ignore=lambda at, _: {WEIGHTS} if at.endswith("former") else set())
    whole, without = load_backbone(tiny_wan_random), load_backbone(tmp_path / "m")
    assert without.fingerprint == whole.fingerprint.partition("-")[0]
    assert whole.accepts(without.fingerprint) and without.accepts(whole.fingerprint)
    eps = load_backbone(changed(tiny_wan_random, tmp_path / "eps", "transformer", eps=1e-3))
    assert not eps.accepts(without.fingerprint) and not without.accepts(eps.fingerprint)
    with pytest.raises(BackboneError, match=str(tmp_path / "m" / "transformer")):
        without.weight(without.layers[0].name)


def test_the_fingerprint_of_0_1_is_accepted_and_looked_for_only_where_the_new_one_differs(
    tiny_wan: Path, tmp_path: Path
) -> None:
    """Stamped by LoFA 0.1.0 (925fb01) on this very model, whose parts it had all loaded for that."""
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load_backbone(tiny_wan, dtype=dtype)
        assert backbone.accepts(backbone.fingerprint)
        assert not any(backbone.has(part) for part in ("denoiser", "autoencoder", "text_encoder"))
        assert backbone.accepts(FINGERPRINT_OF_0_1) and not backbone.accepts("0" * 16)
        assert not backbone.has("denoiser")  # what is looked at once is not kept
    shutil.copytree(tiny_wan, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "vae")
    assert not load_backbone(tmp_path / "m").accepts(FINGERPRINT_OF_0_1)


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
    shutil.copytree(tiny_wan_random, tmp_path / "m")
    scheduler.save_pretrained(tmp_path / "m" / "scheduler")
    backbone = load_backbone(tmp_path / "m")
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
    assert load_backbone(config).denoiser["transformer"].is_gradient_checkpointing
    assert not load_backbone(tiny_wan_random).denoiser["transformer"].is_gradient_checkpointing


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
    with pytest.raises(BackboneError, match=str(cut)):
        load_backbone(cut).weight("transformer.blocks.0.attn1.to_q")
    with pytest.raises(BackboneError, match=str(cut)):
        load_backbone(cut).denoiser  # noqa: B018


def test_without_the_hub_the_error_says_which_folder_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "backbone.path=<folder>")
    refused("nobody/nothing", "nobody/nothing", "backbone.path=<folder>")
