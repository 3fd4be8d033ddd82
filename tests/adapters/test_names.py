import pytest

from lofa.adapters.names import join_name, split_components, split_name


def test_components() -> None:
    name = join_name("transformer_2", "blocks.0.ffn.net.2")
    assert split_name(name) == ("transformer_2", "blocks.0.ffn.net.2")
    assert split_components({name: 1, "transformer.proj_out": 2}) == {
        "transformer_2": {"blocks.0.ffn.net.2": 1},
        "transformer": {"proj_out": 2},
    }
    with pytest.raises(ValueError, match="no layer name"):
        split_name("proj_out")
