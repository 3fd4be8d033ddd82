from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter, LowRank
from lofa.cli import main


def test_an_adapter_of_both_experts_is_converted_to_a_pair_of_files(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{component}.blocks.0.attn1.to_q" for component in ("transformer", "transformer_2")]
    Adapter({name: LowRank(torch.ones(2, 6), torch.ones(5, 2), 0.5) for name in names}).save("a.safetensors")
    command = ["convert", "in=a.safetensors", "out=x.safetensors", "format=comfyui"]
    assert main(command) == 0
    assert "2 layers in x-high.safetensors and x-low.safetensors, rank 2, exact" in capsys.readouterr().out
    assert sorted(file.name for file in inside.glob("x*")) == ["x-high.safetensors", "x-low.safetensors"]
    assert main(["convert", "in=x-low.safetensors", "out=low.safetensors"]) == 0
    assert list(Adapter.load("low.safetensors")) == names[1:]
    assert main(command) == 2 and "x-high.safetensors" in capsys.readouterr().err
    assert main([*command, "overwrite=true"]) == 0
