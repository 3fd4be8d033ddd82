import pytest

from lofa.adapters.names import WAN, canonical_path, join_name, locate_layer, split_components, split_name

PATHS = [WAN.layer_path(depth, kind) for depth in (0, 11) for kind in WAN.kinds] + list(WAN.others)


@pytest.mark.parametrize("path", PATHS)
def test_spellings_are_inverses(path: str) -> None:
    original = WAN.to_original(path)
    assert original is not None
    assert WAN.from_original(original) == path
    assert WAN.from_original(WAN.to_flat(path) or "") == path
    assert canonical_path(original) == canonical_path(path) == path


def test_spellings_of_the_published_zoo() -> None:
    assert WAN.to_original("blocks.7.attn2.to_out.0") == "blocks.7.cross_attn.o"
    assert WAN.to_flat("blocks.7.attn2.to_out.0") == "blocks_7_cross_attn_o"
    assert WAN.to_original("blocks.7.ffn.net.0.proj") == "blocks.7.ffn.0"
    assert WAN.locate("blocks.7.attn1.to_q") == (7, "attn1.to_q")


def test_unknown_paths_are_none() -> None:
    assert WAN.to_original("blocks.7.attn3.to_q") is None and WAN.to_flat("blocks.7.attn3.to_q") is None
    assert WAN.from_original("double_blocks.7.img_attn.qkv") is None
    assert WAN.locate("proj_out") is None
    assert canonical_path("down_blocks.0.attentions.0.proj_in") is None


def test_components() -> None:
    name = join_name("transformer_2", "blocks.0.ffn.net.2")
    assert split_name(name) == ("transformer_2", "blocks.0.ffn.net.2")
    assert split_components([name, "transformer.proj_out"]) == {
        "transformer_2": ["blocks.0.ffn.net.2"],
        "transformer": ["proj_out"],
    }
    assert locate_layer(name) == ("transformer_2", 0, "ffn.net.2")
    assert locate_layer("transformer.proj_out") is None and locate_layer("unet.mid_block.attn1.to_q") is None
    with pytest.raises(ValueError, match="no layer name"):
        split_name("proj_out")
