"""Parts are made when they are asked for, from their own files alone."""

import json
import pickle
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from lofa.backbones import BackboneConfig, bare_backbone, load_backbone, read_config
from lofa.backbones.wan import Architecture, wan_layers
from lofa.errors import BackboneError

PARTS = ("denoiser", "autoencoder", "text_encoder", "tokenizer", "scheduler", "pipeline")


def test_what_configurations_say_needs_no_network(tiny_wan_random: Path, tmp_path: Path) -> None:
    whole = load_backbone(tiny_wan_random)
    assert not any(whole.has(part) for part in PARTS)
    names = [layer.name for layer in whole.layers]
    read = {name: whole.weight(name) for name in names}
    assert whole.latent_shape(5, 32, 48) == (16, 2, 4, 6) and whole.max_prompt_tokens == 48
    assert (whole.condition_width, whole.latent_channels, whole.fingerprint != "") == (64, 16, True)
    assert whole.process.levels.shape == (1000,)
    assert not any(whole.has(part) for part in PARTS)
    network = whole.denoiser["transformer"]
    for name in names:  # the same values, now the network's own
        assert torch.equal(read[name], whole.weight(name))
        assert whole.weight(name).data_ptr() == network.get_submodule(name.partition(".")[2]).weight.data_ptr()
    whole.encode_prompt(["waves"])
    assert [whole.has(part) for part in PARTS] == [True, False, True, True, False, False]
    assert whole.denoiser["transformer"] is network
    half = load_backbone(tiny_wan_random, dtype=torch.bfloat16)
    assert torch.equal(half.weight(names[3]), read[names[3]].bfloat16())


def test_a_part_that_is_missing_is_missed_where_it_is_used(tiny_wan_random: Path, tmp_path: Path) -> None:
    for part in ("vae", "text_encoder", "transformer"):
        copytree(tiny_wan_random, tmp_path / part)
        rmtree(tmp_path / part / part)
    clips = torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8)
    backbone = load_backbone(tmp_path / "vae")
    assert backbone.encode_prompt(["waves"]).tokens.shape[0] == 1
    with pytest.raises(BackboneError, match="vae: can't be loaded as AutoencoderKLWan"):
        backbone.encode_video(clips)
    backbone = load_backbone(tmp_path / "text_encoder")
    assert backbone.encode_video(clips).shape == (1, 16, 2, 4, 4)
    with pytest.raises(BackboneError, match="text_encoder: can't be loaded as UMT5EncoderModel"):
        backbone.encode_prompt(["waves"])
    with pytest.raises(BackboneError, match=r"transformer/config\.json"):
        load_backbone(tmp_path / "transformer")


def test_weights_of_several_files_are_found_by_their_index(tiny_wan_random: Path, tmp_path: Path) -> None:
    copytree(tiny_wan_random, tmp_path / "m")
    whole = load_backbone(tiny_wan_random)
    WanTransformer3DModel.from_pretrained(tiny_wan_random, subfolder="transformer").save_pretrained(
        tmp_path / "m" / "transformer", max_shard_size="200KB"
    )
    parts = load_backbone(tmp_path / "m")
    assert len(list((tmp_path / "m" / "transformer").glob("*.safetensors"))) > 2
    assert parts.fingerprint == whole.fingerprint
    for layer in whole.layers:
        assert torch.equal(parts.weight(layer.name), whole.weight(layer.name))
    next((tmp_path / "m" / "transformer").glob("*-00002-*")).unlink()
    assert load_backbone(tmp_path / "m").fingerprint == whole.fingerprint.partition("-")[0]


def test_a_weight_of_another_size_than_configured_is_refused(tiny_wan_random: Path, tmp_path: Path) -> None:
    copytree(tiny_wan_random, tmp_path / "m")
    file = tmp_path / "m" / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_attention_heads": 2}))
    backbone = load_backbone(tmp_path / "m")
    with pytest.raises(BackboneError, match=r"to_q is \(96, 96\), its configuration says \(48, 48\)"):
        backbone.weight("transformer.blocks.0.attn1.to_q")


def test_of_the_hub_only_the_files_that_are_needed_are_fetched(
    tiny_wan_random: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(repo: str, path: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        assert repo == "owner/wan"
        if not (tiny_wan_random / path).is_file():
            raise EntryNotFoundError(path)
        fetched.append(path)
        return str(tiny_wan_random / path)

    def cached(repo: str, path: str) -> str | None:
        return str(tiny_wan_random / path) if path in fetched else None

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    here, there = load_backbone(tiny_wan_random), load_backbone("owner/wan")
    assert there.latent_shape(5, 32, 32) == (16, 2, 4, 4)
    assert there.fingerprint == here.fingerprint.partition("-")[0]  # the weights are not fetched for it
    assert sorted(fetched) == ["model_index.json", "transformer/config.json", "vae/config.json"]
    name = here.layers[0].name
    assert torch.equal(there.weight(name), here.weight(name))
    assert fetched[-1] == "transformer/diffusion_pytorch_model.safetensors"
    assert there.fingerprint == here.fingerprint


def test_another_process_gets_a_backbone_without_its_networks(tiny_wan_random: Path) -> None:
    backbone = load_backbone(tiny_wan_random)
    backbone.denoiser  # noqa: B018
    sent = pickle.dumps(backbone)
    assert len(sent) < 20_000
    again = pickle.loads(sent)
    assert not again.has("denoiser") and again.fingerprint == backbone.fingerprint
    assert all(torch.equal(again.weight(layer.name), backbone.weight(layer.name)) for layer in backbone.layers)


@pytest.mark.parametrize("added", [None, 40])
def test_layers_are_those_of_the_network(added: int | None) -> None:
    values = {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 8, "ffn_dim": 40, "text_dim": 16}
    with torch.device("meta"):
        network = WanTransformer3DModel(**values, added_kv_proj_dim=added, image_dim=added)
    kinds = {
        path.partition(".")[2].partition(".")[2]
        for path, module in network.named_modules()
        if path.startswith("blocks.") and isinstance(module, nn.Linear)
    }
    layers = wan_layers({"transformer": Architecture.of(network.config)}, sorted(kinds))
    assert len(layers) == 2 * len(kinds) and ("attn2.add_k_proj" in kinds) == (added is not None)
    for layer in layers:
        assert network.get_submodule(layer.name.removeprefix("transformer.")).weight.shape == (
            layer.out_features,
            layer.in_features,
        )
    assert Architecture.of({}) == Architecture.of(WanTransformer3DModel.__init__.__kwdefaults__ or {})


def test_defaults_are_those_of_the_network() -> None:
    with torch.device("meta"):
        config = WanTransformer3DModel(num_layers=1).config
    assert Architecture.of({"num_layers": 1}) == Architecture.of(config)


def test_a_bare_backbone_makes_its_network_where_asked() -> None:
    config = read_config("wan2.1-t2v-1.3b")
    meta = bare_backbone(config)
    assert len(meta.layers) == 240 and not meta.has("denoiser") and "-" not in meta.fingerprint
    architecture = {"transformer": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "ffn_dim": 16}}
    real = bare_backbone(BackboneConfig(name="x", path="x", family="wan", architecture=architecture), "cpu")
    assert real.weight(real.layers[0].name).shape == (16, 16) and real.has("denoiser")
    with pytest.raises(BackboneError, match="x: made of its architecture alone, it has no text_encoder"):
        real.text_encoder  # noqa: B018
    with pytest.raises(BackboneError, match="names no transformer"):
        bare_backbone(BackboneConfig(name="x", path="x", family="wan", architecture={"num_layers": 1}))
