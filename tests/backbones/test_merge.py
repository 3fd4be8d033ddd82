"""lofa.backbones.merge_adapter: the folder it writes is the backbone with the adapter in its slots."""

from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from lofa.adapters import Adapter
from lofa.backbones import (
    Backbone,
    WeightFolder,
    backbone_folder,
    load_backbone,
    merge_adapter,
    merged_adapters,
)
from lofa.errors import BackboneError, TargetError
from lofa.files import write_json
from tests.helpers.adapters import random_adapter

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)


@pytest.fixture(scope="module")
def adapter(backbone: Backbone) -> Adapter:
    return random_adapter(backbone.layers[1:12], ranks={backbone.layers[3].name: 5})


def loss(backbone: Backbone, adapter: Adapter | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 16, 2, 4, 4, generator=generator)
    condition = backbone.encode_prompt(["a figure waves"])
    return backbone.denoising_loss(latents, condition, adapter, generator=generator)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_merged_is_the_backbone_with_the_adapter(
    strength: float, backbone: Backbone, adapter: Adapter, tiny_wan_random: Path, tmp_path: Path
) -> None:
    merge_adapter(tiny_wan_random, adapter, tmp_path / "merged", strength, {"adapter": "a.safetensors"})
    merged = load_backbone(tmp_path / "merged")
    scaled = Adapter({name: type(pair)(pair.A, pair.B, pair.alpha * strength) for name, pair in adapter.items()})
    torch.testing.assert_close(loss(merged), loss(backbone, scaled), rtol=1e-5, atol=0)
    assert not torch.allclose(loss(merged), loss(backbone))
    assert merged.fingerprint != backbone.fingerprint
    (entry,) = merged_adapters(tmp_path / "merged")
    files = entry.pop("files")
    assert entry == {"strength": strength, "layers": 11, "metadata": adapter.metadata, "adapter": "a.safetensors"}
    there = {path.relative_to(tmp_path / "merged").as_posix() for path in (tmp_path / "merged").rglob("*.*")}
    assert {*files, "lofa_merged.json"} == there


def test_all_else_is_the_same_bytes(adapter: Adapter, tiny_wan_random: Path, tmp_path: Path) -> None:
    merge_adapter(tiny_wan_random, adapter, tmp_path / "merged")
    files = {path.relative_to(tiny_wan_random) for path in tiny_wan_random.rglob("*") if path.is_file()}
    found = {path.relative_to(tmp_path / "merged") for path in (tmp_path / "merged").rglob("*") if path.is_file()}
    assert found == files | {Path("lofa_merged.json")}
    different = {f for f in files if (tiny_wan_random / f).read_bytes() != (tmp_path / "merged" / f).read_bytes()}
    assert different == {Path(WEIGHTS)}
    before, after = load_file(tiny_wan_random / WEIGHTS), load_file(tmp_path / "merged" / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name.removeprefix('transformer.')}.weight" for name in adapter}


def test_the_sum_is_taken_in_float32_and_kept_in_the_weights_precision(
    adapter: Adapter, tiny_wan_random: Path, tmp_path: Path
) -> None:
    """Also in a folder of several shards, as large models are."""
    copytree(tiny_wan_random, tmp_path / "half")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "half" / WEIGHTS).items()}
    (tmp_path / "half" / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / "half/transformer" / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    write_json(tmp_path / "half" / f"{WEIGHTS}.index.json", index)
    merge_adapter(tmp_path / "half", adapter, tmp_path / "merged")
    for name, pair in adapter.items():
        W = tensors[f"{name.removeprefix('transformer.')}.weight"]
        found = WeightFolder(tmp_path / "merged").weight(name)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, (W.float() + pair.delta_weight()).bfloat16())
    assert load_backbone(tmp_path / "merged").num_depths == 2


def test_merging_twice_is_told(adapter: Adapter, tiny_wan_random: Path, tmp_path: Path) -> None:
    merge_adapter(tiny_wan_random, adapter, tmp_path / "once", 0.5)
    merge_adapter(tmp_path / "once", adapter, tmp_path / "twice", -0.5)
    assert [entry["strength"] for entry in merged_adapters(tmp_path / "twice")] == [0.5, -0.5]
    before, after = load_file(tiny_wan_random / WEIGHTS), load_file(tmp_path / "twice" / WEIGHTS)
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


def test_a_folder_is_replaced_where_merge_wrote_every_file_of_it(
    adapter: Adapter, tiny_wan_random: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    merge_adapter(tiny_wan_random, adapter, out, 0.5)
    with pytest.raises(TargetError, match="exists already.*overwrite=true"):
        merge_adapter(tiny_wan_random, adapter, out, 0.25)
    merge_adapter(tiny_wan_random, adapter, out, 0.25, overwrite=True)
    assert [entry["strength"] for entry in merged_adapters(out)] == [0.25]
    with pytest.raises(BackboneError, match="inside the backbone"):  # itself
        merge_adapter(out, adapter, out, overwrite=True)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match="never replaced"):
        merge_adapter(tiny_wan_random, adapter, out, overwrite=True)
    copytree(tiny_wan_random, tmp_path / "model")
    with pytest.raises(TargetError, match="never replaced"):
        merge_adapter(tiny_wan_random, adapter, tmp_path / "model", overwrite=True)
    assert (out / "notes.txt").read_text() == "mine" and sorted(tmp_path.iterdir()) == [out, tmp_path / "model"]


def test_what_does_not_fit_is_refused_and_nothing_left(
    backbone: Backbone, adapter: Adapter, tiny_wan_random: Path, tmp_path: Path
) -> None:
    pair = adapter[backbone.layers[1].name]
    out = tmp_path / "out"
    cases = {
        r"blocks\.9\.attn1.*among the \d\d+ of transformer": Adapter({"transformer.blocks.9.attn1.to_q": pair}),
        r"unet\.x.*among the 0 of unet": Adapter({"unet.x": pair}),
        r"is \(96, 96\), the adapter is for one of \(96, 5\)": Adapter(
            {backbone.layers[1].name: type(pair)(pair.A[:, :5], pair.B, pair.alpha)}
        ),
    }
    for words, wrong in cases.items():
        with pytest.raises(BackboneError, match=words):
            merge_adapter(tiny_wan_random, wrong, out)
    with pytest.raises(BackboneError, match="infinity"):
        merge_adapter(tiny_wan_random, adapter, out, float("inf"))
    out.mkdir()
    with pytest.raises(TargetError, match="exists already"):
        merge_adapter(tiny_wan_random, adapter, out)
    with pytest.raises(BackboneError, match="inside the backbone"):
        merge_adapter(tiny_wan_random, adapter, tiny_wan_random / "merged")
    assert list(tmp_path.rglob("*")) == [out] and not (tiny_wan_random / "merged").exists()


def test_the_folder_of_a_name(tiny_wan: Path, tmp_path: Path) -> None:
    assert backbone_folder("tiny-wan") == tiny_wan
    with pytest.raises(BackboneError, match="hf download Wan-AI"):
        backbone_folder("wan2.1-t2v-1.3b")
    with pytest.raises(BackboneError, match=r"no model_index\.json"):
        backbone_folder(tmp_path)
