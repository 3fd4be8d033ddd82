"""A family that the source has never heard of: one file, and one line of the table."""

from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import load_backbone
from lofa.backbones.families import FAMILIES
from lofa.errors import BackboneError
from lofa.zoo import Clips, LoraJob, LoraOptions, train_loras
from tests.helpers.toy_family import ToyBackbone, make_toy


def test_a_family_is_a_file_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_toy(tmp_path / "toy")
    with pytest.raises(BackboneError, match=r"a ToyPipeline; the families known here are wan \(WanPipeline\)"):
        load_backbone(folder)
    monkeypatch.setitem(FAMILIES, "toy", ToyBackbone)
    toy = load_backbone(folder)
    names = [layer.name for layer in toy.layers]
    assert names == [f"unet.blocks.{depth}.{kind}" for depth in (0, 1) for kind in ("mix", "steer")]
    read = [toy.weight(name) for name in names]
    assert not toy.has("denoiser")
    assert all(torch.equal(weight, toy.denoiser.get_submodule(n).weight) for n, weight in zip(names, read, strict=True))
    clips = torch.randint(0, 256, (3, 2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    condition = toy.encode_prompt(["waves", "kicks", "turns"])
    options = LoraOptions(rank=2, steps=30, batch=2, clips_per_step=2, lr=5e-2, warmup=1, probe_levels=4)
    jobs = [LoraJob(f"job{i}", Clips(toy.encode_video(clips), condition), seed=i) for i in range(2)]
    for result in train_loras(toy, jobs, options):
        assert result.adapter is not None and result.final_loss < result.first_loss
        file = tmp_path / f"{result.id}.safetensors"
        Adapter(result.adapter).save(file)
        loaded = Adapter.load(file)
        given = {"noise_level": torch.full((3,), 0.5), "noise": torch.zeros(3, 3, 2, 4, 4)}
        latents = toy.encode_video(clips)
        losses = [toy.denoising_loss(latents, condition, a, **given) for a in (Adapter(result.adapter), loaded, None)]
        assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])
