"""The whole recipe at a size that takes seconds: what it writes loads, and an interrupted run goes on."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lofa.backbones import load_backbone
from lofa.diffusion import FlowMatching
from lofa.files import digest, read_tensors
from lofa.metrics import load_clip, load_video_features
from lofa.pretrain import Recipe, Schedule, pretrain, recipe
from lofa.resources import data_dir

STEP = Schedule(1, 8, 1e-3)
MICRO = Recipe(
    vae_base=4,
    vae_latents=4,
    vae_images=STEP,
    vae_short_clips=Schedule(1, 1, 1e-3),
    vae_full_clips=Schedule(1, 1, 1e-3),
    text_width=16,
    text_layers=1,
    text=STEP,
    heads=1,
    layers=1,
    clips=4,
    transformer=Schedule(2, 4, 1e-3),
    clip=STEP,
    video=STEP,
    video_width=16,
    sampling_steps=2,
)
PARTS = ("tiny-wan.parts/vae", "tiny-wan.parts/text", "tiny-wan", "tiny-metrics/clip")


def _digests(out: Path) -> dict[str, str]:
    return {
        str(file.relative_to(out)): digest(file)
        for part in PARTS
        for file in sorted((out / part).rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_and_its_models_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    # most of the time would go into drawing the pools of the metric networks
    monkeypatch.setattr(recipe, "train_clip", partial(recipe.train_clip, looks=8))
    monkeypatch.setattr(recipe, "train_video_network", partial(recipe.train_video_network, looks=24))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipe, "train_video_network", interrupt)
        pretrain(tmp_path, MICRO, Console(file=io.StringIO()))
    before = _digests(tmp_path)
    assert [path.name for path in (tmp_path / "tiny-metrics").iterdir()] == ["clip"]  # nothing half-made stays

    log = io.StringIO()
    pretrain(tmp_path, MICRO, Console(file=log, width=200))
    assert [line.removesuffix(": is there") for line in log.getvalue().splitlines()[: len(PARTS)]] == list(PARTS)
    assert _digests(tmp_path) == before

    backbone = load_backbone(tmp_path / "tiny-wan")
    clips = backbone.generate(["a red figure, waves", "a figure"], seed=3)
    assert clips.shape == (2, 17, 64, 64, 3)
    assert backbone.sampling.steps == 2
    for part, folder in (
        ("vae", "vae"),
        ("text/text_encoder", "text_encoder"),
    ):  # the pipeline holds the trained parts, in half precision
        (weights,) = (tmp_path / "tiny-wan" / folder).glob("*.safetensors")
        (source,) = (tmp_path / "tiny-wan.parts" / part).glob("*.safetensors")
        trained, kept = read_tensors(source), read_tensors(weights)
        for name, tensor in trained.items():
            assert tensor.dtype == torch.float16 and torch.equal(kept[name], tensor), name
    load_clip(tmp_path / "tiny-metrics" / "clip")
    assert load_video_features(tmp_path / "tiny-metrics" / "video")(clips).shape == (2, 16)
    for file in (*(tmp_path / "tiny-wan").rglob("*.json"), *(tmp_path / "tiny-metrics").rglob("*.json")):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), f"{file} says where it was made"


def test_the_shipped_models_are_of_the_recipe_s_sizes() -> None:
    """The defaults of `Recipe` made what ships."""
    backbone, shipped = load_backbone("tiny-wan"), Recipe()
    transformer, vae = backbone.pipeline.transformer, backbone.pipeline.vae
    assert (transformer.config.num_layers, transformer.config.num_attention_heads) == (shipped.layers, shipped.heads)
    assert (vae.config.z_dim, vae.config.base_dim) == (shipped.vae_latents, shipped.vae_base)
    assert backbone.condition_width == shipped.text_width
    assert backbone.process == FlowMatching(shipped.shift)
    assert (backbone.sampling.steps, backbone.sampling.guidance) == (shipped.sampling_steps, shipped.guidance)
    assert all(parameter.dtype == torch.float32 for parameter in transformer.parameters())


def test_the_shipped_models_are_small() -> None:
    """15 MB in all, in half precision."""
    files = [file for name in ("tiny-wan", "tiny-metrics") for file in (data_dir() / name).rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= 15e6
