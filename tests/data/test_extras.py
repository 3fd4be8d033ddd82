"""What a backbone makes of a prompt beside its tokens reaches the denoiser: prepare -> files -> batch -> loss."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.data import LoFADataModule, prepare, read_encoded, read_samples
from lofa.zoo import read_clips
from tests.data.conftest import QUIET, WORLD, add_zoo


def extras_of(prompt: str) -> dict[str, Tensor]:
    """A pooled vector and a size, which depend on the prompt alone."""
    draw = torch.Generator().manual_seed(len(prompt))
    return {"pooled": torch.randn(7, generator=draw), "size": torch.tensor([len(prompt), 64])}


@pytest.fixture
def seen(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[Condition]:
    """The backbone as one of a family with extras; what its denoiser is given."""
    encode, predict, found = backbone.encode_prompt, backbone.predict, []

    def encode_prompt(prompts: list[str]) -> Condition:
        made = encode(prompts)
        rows = [extras_of(prompt) for prompt in prompts]
        return Condition(
            made.tokens, made.lengths, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        )

    def denoiser(x_t: Tensor, level: Tensor, condition: Condition, *adapters: object) -> Tensor:
        found.append(condition)
        return predict(x_t, level, condition, *adapters)

    monkeypatch.setattr(backbone, "encode_prompt", encode_prompt)
    monkeypatch.setattr(backbone, "predict", denoiser)
    return found


def test_extras_go_from_the_prompt_to_the_denoiser(seen: list[Condition], backbone: Backbone, tmp_path: Path) -> None:
    prepare("world", tmp_path / "set", backbone, WORLD, QUIET)
    samples = {sample.id: sample for sample in read_samples(tmp_path / "set")}
    first = next(iter(samples.values()))
    assert {"extras.pooled", "extras.size"} < set(first.encoded)
    for names in (None, ["latents"]):  # they belong to the prompt, and come with it
        extras = read_encoded(tmp_path / "set", first, backbone, names).extras
        assert all(torch.equal(extras[name], value) for name, value in extras_of(first.caption).items())

    add_zoo(tmp_path / "set", backbone)
    data = LoFADataModule(tmp_path / "set", backbone.layers, backbone, stage=2, batch_size=3, siblings=False)
    data.setup()
    batch = next(iter(data.train_dataloader())).to("cpu")
    rows = torch.tensor([2, 0, 0])
    level = torch.full((3,), 0.5)
    backbone.denoising_loss(batch.latents[rows], batch.prompt[rows], noise_level=level)
    given = seen[-1].extras
    assert given["size"].dtype == torch.int64
    for row, source in enumerate(rows.tolist()):
        expected = extras_of(samples[batch.ids[source]].caption)
        assert all(torch.equal(given[name][row], value) for name, value in expected.items())

    clips = read_clips(tmp_path / "set", list(samples.values())[:2], backbone)
    assert torch.equal(clips.condition.extras["pooled"][0], extras_of(first.caption)["pooled"])
    assert Condition.cat([clips.condition, clips.condition]).extras["size"].shape == (4, 2)
