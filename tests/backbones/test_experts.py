"""Wan 2.2's two transformers: what other tools load of an adapter of both."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from lofa.adapters import Adapter
from lofa.backbones import Backbone, bare_backbone, load_backbone, read_config
from tests.helpers.adapters import random_adapter
from tests.helpers.tiny_wan import make_tiny_wan

HIGH, LOW = "transformer", "transformer_2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_wan(tmp_path_factory.mktemp("models") / "two", experts=2)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder)


@pytest.fixture(scope="module")
def adapter(backbone: Backbone) -> Adapter:
    return random_adapter(backbone.layers, seed=1)


def velocity(network: nn.Module) -> Tensor:
    x, text = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3, 64)
    with torch.no_grad():
        result: Tensor = network(x, torch.tensor([500.0]), text).sample
    return result


def merged(folder: Path, adapter: Adapter, component: str, into: str) -> Tensor:
    """The velocity of `into` with the layers of `component` in its weights."""
    network = getattr(WanPipeline.from_pretrained(folder), into)
    for name in adapter:
        owner, _, path = name.partition(".")
        if owner == component:
            network.get_submodule(path).weight.data += adapter.delta_weight(name)
    return velocity(network)


def same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() < 1e-5 * expected.norm())


def test_of_a_file_with_two_prefixes_diffusers_loads_the_first_wherever_it_is_told(
    folder: Path, adapter: Adapter, tmp_path: Path
) -> None:
    """So such a file gives the high-noise half, or, asked for the low-noise transformer, a wrong one."""
    adapter.save(tmp_path / "both.safetensors")
    pipeline = WanPipeline.from_pretrained(folder)
    plain = velocity(pipeline.transformer_2)
    pipeline.load_lora_weights(str(tmp_path), weight_name="both.safetensors")
    assert same(velocity(pipeline.transformer), merged(folder, adapter, HIGH, HIGH))
    assert torch.equal(velocity(pipeline.transformer_2), plain)
    pipeline.load_lora_weights(str(tmp_path), weight_name="both.safetensors", load_into_transformer_2=True)
    assert same(velocity(pipeline.transformer_2), merged(folder, adapter, HIGH, LOW))
    assert not same(velocity(pipeline.transformer_2), merged(folder, adapter, LOW, LOW))


def test_the_pair_of_files_goes_where_it_belongs(folder: Path, adapter: Adapter, tmp_path: Path) -> None:
    high, low = adapter.save(tmp_path / "x.safetensors", format="comfyui")
    assert (high.name, low.name) == ("x-high.safetensors", "x-low.safetensors")
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(str(tmp_path), weight_name=high.name)
    pipeline.load_lora_weights(str(tmp_path), weight_name=low.name, load_into_transformer_2=True)
    for component in (HIGH, LOW):
        assert same(velocity(getattr(pipeline, component)), merged(folder, adapter, component, component))
    both = Adapter({**Adapter.load(high), **Adapter.load(low)})
    assert set(both) == set(adapter) and adapter.distance(both) < 1e-6


def test_the_large_model_is_described_without_its_weights() -> None:
    config = read_config("wan2.2-t2v-a14b")
    backbone = bare_backbone(config)
    assert len(backbone.layers) == 640 and backbone.num_depths == 80
    assert {(layer.out_features, layer.in_features) for layer in backbone.layers} == {(5120, 5120)}
    assert backbone.source.index["boundary_ratio"] == 0.875
    assert [layer.name.partition(".")[0] for layer in backbone.layers[::320]] == [HIGH, LOW]
