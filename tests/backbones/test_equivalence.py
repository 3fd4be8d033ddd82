"""The same adapter four ways: slots, weights merged by hand, diffusers' loader, PEFT's loader."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from lofa.adapters import Adapter
from lofa.adapters.families.wan import WAN
from lofa.adapters.names import split_name
from lofa.backbones import Backbone, BackboneConfig, load_backbone
from lofa.files import read_tensors
from tests.helpers.adapters import random_adapter

BOTH = torch.zeros(2, dtype=torch.int64)  # the one adapter on both rows


@pytest.fixture(scope="module")
def backbone(tiny_wan_random: Path) -> Backbone:
    kinds = tuple(kind for kind in WAN.kinds if "add_" not in kind)
    return load_backbone(BackboneConfig(name="random", path=str(tiny_wan_random), kinds=kinds))


@pytest.fixture(scope="module")
def adapter(backbone: Backbone) -> Adapter:
    """Layers of two ranks and alphas, some layers without."""
    layers = [layer for layer in backbone.layers if layer.kind != "attn2.to_k"]
    return random_adapter(layers, ranks={layers[1].name: 5, layers[7].name: 1})


@pytest.fixture(scope="module")
def inputs(backbone: Backbone) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(2, 16, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([900.0, 250.0]),
        "encoder_hidden_states": torch.randn(2, backbone.max_prompt_tokens, 64, generator=generator),
    }


def output(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs, return_dict=False)[0]
    return result


def by_diffusers(folder: Path, file: Path) -> nn.Module:
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return pipeline.transformer


def by_peft(folder: Path, file: Path) -> nn.Module:
    transformer = WanPipeline.from_pretrained(folder, dtype=torch.float32).transformer
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of missing keys
        return PeftModel.from_pretrained(transformer, str(file)).eval()


def merged_by_hand(folder: Path, file: Path) -> nn.Module:
    transformer = WanPipeline.from_pretrained(folder, dtype=torch.float32).transformer
    for name, pair in Adapter.load(file).items():
        transformer.get_submodule(split_name(name)[1]).weight.data += pair.delta_weight()
    return transformer


@pytest.mark.parametrize(
    ("format", "file", "load"),
    [
        ("diffusers", "a.safetensors", by_diffusers),
        ("comfyui", "a.safetensors", by_diffusers),
        ("peft", "a", by_peft),
        *((format, file, merged_by_hand) for format, file in (("diffusers", "a.safetensors"), ("reference", "a.pth"))),
    ],
)
def test_every_way_gives_the_output_of_the_slots(
    format: str,
    file: str,
    load: Callable[[Path, Path], nn.Module],
    backbone: Backbone,
    adapter: Adapter,
    inputs: dict[str, Tensor],
    tiny_wan_random: Path,
    tmp_path: Path,
) -> None:
    transformer = backbone.pipeline.transformer
    bare = output(transformer, inputs)
    with backbone.slots.attached(backbone.adapter_batch(adapter), BOTH):
        expected = output(transformer, inputs)
    assert (expected - bare).norm() / bare.norm() > 0.05
    assert torch.equal(output(transformer, inputs), bare)
    adapter.save(tmp_path / file, format)
    found = output(load(tiny_wan_random, tmp_path / file), inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_diffusers_reads_kohya_files_of_whole_blocks_alone(
    backbone: Backbone, adapter: Adapter, inputs: dict[str, Tensor], tiny_wan_random: Path, tmp_path: Path
) -> None:
    """What docs/formats.md says of partial layers; our own reader takes both (tests/adapters)."""
    whole = random_adapter(backbone.layers)
    with backbone.slots.attached(backbone.adapter_batch(whole), BOTH):
        expected = output(backbone.pipeline.transformer, inputs)
    whole.save(tmp_path / "whole.safetensors", "kohya")
    found = output(by_diffusers(tiny_wan_random, tmp_path / "whole.safetensors"), inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5
    adapter.save(tmp_path / "part.safetensors", "kohya")
    with pytest.raises(KeyError):
        by_diffusers(tiny_wan_random, tmp_path / "part.safetensors")


def test_diffusers_takes_negative_multipliers(
    backbone: Backbone, inputs: dict[str, Tensor], tiny_wan_random: Path, tmp_path: Path
) -> None:
    """It halves a stored alpha below 1 until it is not: a negative one would keep it busy for ever."""
    negative = random_adapter(backbone.layers[:2], alpha=-0.7)
    with backbone.slots.attached(backbone.adapter_batch(negative), BOTH):
        expected = output(backbone.pipeline.transformer, inputs)
    negative.save(tmp_path / "a.safetensors", "comfyui")
    stored = read_tensors(tmp_path / "a.safetensors")
    assert all(tensor > 0 for name, tensor in stored.items() if name.endswith(".alpha"))
    found = output(by_diffusers(tiny_wan_random, tmp_path / "a.safetensors"), inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize(
    ("format", "file", "load"),
    [("diffusers", "a.safetensors", by_diffusers), ("peft", "a", by_peft)],
)
def test_other_readers_get_from_float8_files_what_we_do(
    format: str,
    file: str,
    load: Callable[[Path, Path], nn.Module],
    adapter: Adapter,
    inputs: dict[str, Tensor],
    tiny_wan_random: Path,
    tmp_path: Path,
) -> None:
    """diffusers can't multiply the float8 of ComfyUI's format by its alpha; these two it can."""
    adapter.save(tmp_path / file, format, torch.float8_e4m3fn)
    expected = output(merged_by_hand(tiny_wan_random, tmp_path / file), inputs)
    found = output(load(tiny_wan_random, tmp_path / file).to(torch.float32), inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("spelling", [dict, convert_state_dict_to_diffusers])
def test_diffusers_own_lora_files_are_read(
    spelling: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    backbone: Backbone,
    inputs: dict[str, Tensor],
    tiny_wan_random: Path,
    tmp_path: Path,
) -> None:
    """A LoRA made with PEFT and written by diffusers, alpha in its header."""
    pipeline = WanPipeline.from_pretrained(tiny_wan_random, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config)
    expected = output(pipeline.transformer, inputs)
    WanPipeline.save_lora_weights(
        tmp_path,
        spelling(get_peft_model_state_dict(pipeline.transformer)),
        transformer_lora_adapter_metadata=config.to_dict(),
    )
    loaded = Adapter.load(tmp_path)
    assert {pair.alpha.item() for pair in loaded.values()} == {2.5}
    with backbone.slots.attached(backbone.adapter_batch(loaded), BOTH):
        found = output(backbone.pipeline.transformer, inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_the_backbone_s_own_pipeline_takes_lora_files(
    adapter: Adapter, inputs: dict[str, Tensor], tiny_wan_random: Path, tmp_path: Path
) -> None:
    """Slots in the tree don't disturb diffusers."""
    own = load_backbone(tiny_wan_random)
    part = Adapter({layer.name: adapter[layer.name] for layer in own.layers if layer.name in adapter})
    with own.slots.attached(own.adapter_batch(part), BOTH):
        expected = output(own.pipeline.transformer, inputs)
    part.save(tmp_path / "a.safetensors")
    own.pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    found = output(own.pipeline.transformer, inputs)
    assert (found - expected).norm() / expected.norm() < 1e-5
