from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter, LowRank
from lofa.adapters.families import FAMILIES, Family, canonical_pairs, family_of, locate_layer
from lofa.adapters.families.sdxl import SDXL
from lofa.adapters.families.wan import WAN
from lofa.backbones import bare_backbone, read_config
from lofa.errors import AdapterFormatError

PATHS = [WAN.layer_path(depth, kind) for depth in (0, 11) for kind in WAN.kinds] + list(WAN.others)
PAIR = LowRank(torch.ones(1, 2), torch.ones(3, 1), torch.tensor(1.0))


@pytest.mark.parametrize("path", PATHS)
def test_spellings_are_inverses(path: str) -> None:
    original = WAN.original(path)
    assert original is not None
    assert WAN.path(original) == path
    assert WAN.path(original.replace(".", "_")) == path
    assert list(canonical_pairs({original: PAIR})) == list(canonical_pairs({path: PAIR})) == [path]
    assert family_of([path]) is family_of([original], original=True) is WAN


def test_spellings_of_the_published_zoo() -> None:
    assert WAN.original("blocks.7.attn2.to_out.0") == "blocks.7.cross_attn.o"
    assert WAN.original("blocks.7.ffn.net.0.proj") == "blocks.7.ffn.0"
    assert WAN.locate("blocks.7.attn1.to_q") == (7, "attn1.to_q")


def test_unknown_paths_are_none() -> None:
    assert WAN.original("blocks.7.attn3.to_q") is None
    assert WAN.path("double_blocks.7.img_attn.qkv") is None
    assert WAN.locate("proj_out") is None
    foreign = "down_blocks.0.attentions.0.proj_in"
    assert list(canonical_pairs({foreign: PAIR})) == [foreign]
    assert family_of(["blocks.0.attn1.to_q", foreign]) is None


def test_layers_are_located_by_component_depth_and_kind() -> None:
    assert locate_layer("transformer_2.blocks.0.ffn.net.2") == ("transformer_2", 0, "ffn.net.2")
    assert locate_layer("transformer.proj_out") is None and locate_layer("unet.mid_block.attn1.to_q") is None


class Fused(Family):
    """A family whose first publication has one `qkv` where diffusers has three layers: its names are no bijection."""

    def locate(self, path: str) -> tuple[int, str] | None:
        return (0, path) if path in self.kinds else None

    def has_path(self, path: str) -> bool:
        return path in self.kinds

    def has_original(self, name: str) -> bool:
        return name == "qkv"

    def to_original(self, pairs: Mapping[str, LowRank], flat: bool = False) -> dict[str, LowRank]:
        three = [pairs[kind] for kind in self.kinds]
        B = torch.block_diag(*(pair.scaled_B for pair in three))
        return {"qkv": LowRank(torch.cat([pair.A for pair in three]), B, torch.tensor(1.0))}

    def from_original(self, pairs: Mapping[str, LowRank]) -> dict[str, LowRank]:
        A, B, alpha = pairs["qkv"].A, pairs["qkv"].B, pairs["qkv"].alpha
        return {kind: LowRank(A, part, alpha) for kind, part in zip(self.kinds, B.chunk(3), strict=True)}


FUSED = Fused("fused", {"transformer": "whole"}, dict.fromkeys(("to_q", "to_k", "to_v"), "qkv"), {})


@pytest.mark.parametrize("format", ["comfyui", "kohya", "reference"])
def test_a_family_that_fuses_layers_is_one_line_of_the_table(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    before = Adapter(
        {
            f"transformer.{kind}": LowRank(
                torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator), torch.tensor(0.3 + i)
            )
            for i, kind in enumerate(FUSED.kinds)
        }
    )
    path = tmp_path / ("a.pth" if format == "reference" else "a.safetensors")
    with pytest.raises(AdapterFormatError, match="no .* name is known for layer to_q"):
        before.save(path, format)
    monkeypatch.setitem(FAMILIES, "fused", FUSED)
    before.save(path, format)
    after = Adapter.load(path)
    assert set(after) == set(before) and before.distance(after) < 1e-6


SDXL_NAMES = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k": "input_blocks.8.1.transformer_blocks.9.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj": "middle_block.1.transformer_blocks.9.ff.net.0.proj",
    "up_blocks.0.attentions.2.transformer_blocks.3.attn1.to_out.0": (
        "output_blocks.2.1.transformer_blocks.3.attn1.to_out.0"
    ),
    "up_blocks.1.attentions.0.proj_in": "output_blocks.3.1.proj_in",
}
"""As published LoRAs for SDXL 1.0 have them."""


@pytest.mark.parametrize("path", SDXL_NAMES)
def test_sdxl_s_spellings(path: str) -> None:
    original = SDXL_NAMES[path]
    assert SDXL.original(path) == original and SDXL.path(original) == path
    for flat in (original.replace(".", "_"), path.replace(".", "_")):  # sd-scripts' and diffusers' trainers
        assert SDXL.path(flat) == path and family_of([flat], original=True) is SDXL
    assert family_of([path]) is SDXL and not SDXL.has_original(path)
    assert list(SDXL.to_original({path: PAIR}, flat=True)) == [path.replace(".", "_")]


def test_every_layer_of_sdxl_has_names_of_its_own() -> None:
    layers = bare_backbone(read_config("sdxl-1.0")).layers
    paths = [layer.name.removeprefix("unet.") for layer in layers]
    originals = [SDXL.original(path) for path in paths]
    assert len(set(originals)) == len(set(paths)) == 560
    assert [SDXL.path(str(name)) for name in originals] == paths
