"""A prepared set of the world, metrics and a predictor, all of random weights and seconds to make."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from lofa.backbones import Backbone, load_backbone
from lofa.conditions import TextEncoder
from lofa.data import PrepareOptions, prepare, read_samples
from lofa.evaluation import Case, Comparison, Metrics, Protocol, plan_cases
from lofa.hypernets import AdapterConfig, AdapterNet, Part, ResponseConfig, ResponseNet, TwoStage
from lofa.metrics import build_metrics
from lofa.predict import Predictor, save_predictor
from lofa.tasks import Task
from tests.metrics.networks import make_clip, make_video_features


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    """Two scored clips a prompt, one of them generated."""
    return Protocol(noise_levels=2, batch=4, draws=100, pictures=1, generated_per_prompt=1)


@pytest.fixture(scope="session")
def backbone(tiny_wan_random: Path) -> Backbone:
    """The random backbone, its prompts long enough for the world's captions."""
    loaded = load_backbone(tiny_wan_random)
    loaded.max_prompt_tokens = 200
    return loaded


@pytest.fixture(scope="session")
def world_set(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """Three held-out classes with two clips of each role, and two training classes with two clips."""
    folder = tmp_path_factory.mktemp("sets") / "world"
    options = PrepareOptions(train_classes=2, train_clips=2, val_classes=0, test_classes=3, test_adapt=2, test_score=2)
    prepare("world", folder, backbone, options, Console(quiet=True))
    return folder


@pytest.fixture(scope="session")
def cases(world_set: Path, protocol: Protocol) -> list[Case]:
    return plan_cases(read_samples(world_set), protocol)


@pytest.fixture(scope="session")
def task() -> Task:
    return Task("text_action", {"text": {}}, ("fvd", "clip_t", "denoising_loss", "dynamic_degree"))


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("networks")
    return {"clip": str(make_clip(folder / "clip")), "video": str(make_video_features(folder / "video"))}


@pytest.fixture(scope="session")
def metrics(task: Task, networks: dict[str, str]) -> Metrics:
    return build_metrics(task.metrics, networks)


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Predictor:
    layer = backbone.layers[0]
    values = {
        "shapes": [[layer.out_features, layer.in_features]],
        "num_depths": backbone.num_depths,
        "num_kinds": len(backbone.kinds),
        "context_width": backbone.condition_width,
        "patch_size": 48,
        "d_model": 32,
        "n_heads": 2,
        "n_blocks": 1,
        "lora_rank": 2,
    }
    encoder = TextEncoder(width=backbone.condition_width)
    torch.manual_seed(0)
    response = Part(ResponseNet(ResponseConfig(**values)), encoder)
    adapter = Part(AdapterNet(AdapterConfig(**values, response_width=32, read_after=(0,), alpha_init=0.1)), encoder)
    for stage in (response, adapter):  # the heads start at 0, and then every prompt has the same adapter
        torch.nn.init.normal_(stage.network.head.B[str(layer.out_features)].weight, std=0.1)
    folder = tmp_path_factory.mktemp("run")
    save_predictor(
        folder / "predictor", backbone, conditions=["text"], hypernet=TwoStage(response=response, adapter=adapter)
    )
    return Predictor.load(folder, backbone=backbone)


@pytest.fixture(scope="session")
def comparison(world_set: Path, backbone: Backbone, task: Task, cases: list[Case], predictor: Predictor) -> Comparison:
    return Comparison(world_set, backbone, task, read_samples(world_set), cases, lambda run: predictor)
