"""The published predictor behind `Predictor`: the numbers of the published networks, and what a wrong folder says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lofa.backbones import Backbone, load_backbone
from lofa.errors import DataError, LofaError
from lofa.interop.config import ReferenceConfig
from lofa.interop.reference import ReferenceAdapterNet, ReferenceResponseNet
from lofa.predict import Predictor

VALUES: dict[str, Any] = {
    "in_dim": 96,
    "input_size": 96,
    "patch_size": 48,
    "d_model": 32,
    "n_heads": 2,
    "n_blocks": 2,
    "lora_rank": 2,
    "num_depth": 4,
}
PROMPTS = ["a figure waves the left arm", "the figure waves"]


@pytest.fixture(scope="module")
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)


Networks = tuple[ReferenceResponseNet, ReferenceAdapterNet]


@pytest.fixture(scope="module")
def networks(backbone: Backbone) -> Networks:
    torch.manual_seed(0)
    values = VALUES | {"context_dim": backbone.condition_width}
    first = ReferenceResponseNet(ReferenceConfig.read(1, values))
    second = ReferenceAdapterNet(ReferenceConfig.read(2, values | {"cross_attn_idxs": [1]}))
    return first.requires_grad_(False), second.requires_grad_(False)


@pytest.fixture
def folder(backbone: Backbone, networks: Networks, tmp_path: Path) -> Path:
    values = VALUES | {"context_dim": backbone.condition_width, "factorized": True}
    sections = {"stage1": values, "stage2": values | {"cross_attn_idxs": [1]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    for stage, network in zip((1, 2), networks, strict=True):
        torch.save(network.state_dict(), tmp_path / f"stage{stage}_preview.pth")
    return tmp_path


def test_it_predicts_what_the_published_networks_give_for_512_tokens(
    folder: Path, backbone: Backbone, networks: Networks
) -> None:
    predictor = Predictor.load(f"reference:{folder}", backbone=backbone)
    adapters, maps = predictor.predict(PROMPTS), predictor.response_map(PROMPTS)
    condition = backbone.encode_prompt(PROMPTS)
    order = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
    order += [kind.replace("attn1", "attn2") for kind in order]
    W = torch.stack([backbone.weight(layer.name) for layer in backbone.layers])
    depth = torch.tensor([layer.depth for layer in backbone.layers])
    kind = torch.tensor([order.index(layer.kind) for layer in backbone.layers])
    for row, (adapter, probability) in enumerate(zip(adapters, maps, strict=True)):
        text = torch.zeros(512, backbone.condition_width)
        text[: condition.lengths[row]] = condition.tokens[row, : condition.lengths[row]]
        said = networks[0](W, depth, kind, text)
        made = networks[1](W, depth, kind, text, said.tokens)
        for i, layer in enumerate(backbone.layers):
            torch.testing.assert_close(adapter.delta_weight(layer.name), made.delta_w[i], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(probability[layer.name], said.logits[i].sigmoid(), rtol=1e-4, atol=1e-5)


def _edit(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = yaml.safe_load((folder / "config.yaml").read_text())
        for section in values.values():
            section |= change
        (folder / "config.yaml").write_text(yaml.safe_dump(values))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml: no such file; .*stage1_preview.pth"),
        (lambda folder: (folder / "config.yaml").write_text("stage1: {}"), "needs the sections stage1 and stage2"),
        (lambda folder: (folder / "config.yaml").write_text("a: [b"), "config.yaml: not readable as yaml"),
        (lambda folder: (folder / "stage2_preview.pth").unlink(), "stage2_preview.pth: no such file"),
        (lambda folder: (folder / "stage2_preview.pth").write_bytes(b"PK"), "stage2_preview.pth: not a readable"),
        (_edit({"d_modle": 3}), "no constructor value 'd_modle'"),
        (_edit({"lora_rank": 3}), "size mismatch for head_A.weight"),
    ],
)
def test_a_wrong_folder_is_named(folder: Path, backbone: Backbone, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(LofaError, match=message):
        Predictor.load(f"reference:{folder}", backbone=backbone)


def test_layers_of_another_size_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    values = VALUES | {"context_dim": backbone.condition_width, "in_dim": 48, "input_size": 48}
    sections = {"stage1": values, "stage2": values | {"cross_attn_idxs": []}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    for stage, kind in ((1, ReferenceResponseNet), (2, ReferenceAdapterNet)):
        state = kind(ReferenceConfig.read(stage, sections[f"stage{stage}"])).state_dict()
        torch.save(state, tmp_path / f"stage{stage}_preview.pth")
    with pytest.raises(DataError, match="layers of 48 x 48, 8 kinds of them"):
        Predictor.load(f"reference:{tmp_path}", backbone=backbone)
