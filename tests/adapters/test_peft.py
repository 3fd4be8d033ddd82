"""What PEFT itself computes from a configuration is what is read here."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from lofa.adapters import Adapter
from lofa.errors import AdapterFormatError
from lofa.files import read_json, read_tensors, write_json


class Wan(nn.Module):
    """Twelve blocks with one attention layer each, under the names of the real model."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn1": nn.ModuleDict({"to_q": nn.Linear(6, 5)})}) for _ in range(12)
        )


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Saves a LoRA of PEFT's with some options; gives its folder and PEFT's own delta weight of each block."""

    def save(**options: object) -> tuple[Path, list[torch.Tensor]]:
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["to_q"], init_lora_weights=False, **options)
        model = peft.get_peft_model(Wan(), config)
        model.save_pretrained(tmp_path / "lora")
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        return tmp_path / "lora", [layer.get_delta_weight("default").detach() for layer in layers]

    return save


def name(depth: int) -> str:
    return f"transformer.blocks.{depth}.attn1.to_q"


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 3},
        {"r": 4, "lora_alpha": 3, "use_rslora": True},
        {"r": 4, "lora_alpha": 3, "alpha_pattern": {"blocks.1.attn1.to_q": 40}},
        {
            "r": 4,
            "lora_alpha": 3,
            "alpha_pattern": {"1.attn1.to_q": 40, "locks.2.attn1.to_q": 50, "blocks.3.attn1": 60},
        },
        {"r": 4, "lora_alpha": 3, "rank_pattern": {"blocks.1.attn1.to_q": 2}, "use_rslora": True},
    ],
    ids=["plain", "rank-stabilised", "alpha of one layer", "ends of names", "rank of one layer"],
)
def test_the_change_is_the_one_peft_computes(options: dict[str, object], saved: Any) -> None:
    folder, expected = saved(**options)
    adapter = Adapter.load(folder)
    assert len(adapter) == 12
    for depth, delta_w in enumerate(expected):
        torch.testing.assert_close(
            adapter.delta_weight(name(depth)), delta_w, msg=lambda text, depth=depth: f"{depth}: {text}"
        )


@pytest.mark.parametrize("option", ["use_dora", "fan_in_fan_out", "lora_bias"])
def test_a_configuration_of_more_than_a_product_is_refused(option: str, saved: Any, tmp_path: Path) -> None:
    """In PEFT's folder and in diffusers' header."""
    folder, _ = saved(r=4, lora_alpha=3)
    write_json(folder / "adapter_config.json", read_json(folder / "adapter_config.json") | {option: True})
    with pytest.raises(AdapterFormatError, match=f"{option}=True, which is more than"):
        Adapter.load(folder)
    pair = {f"{name(0)}.lora_A.weight": torch.ones(4, 6), f"{name(0)}.lora_B.weight": torch.ones(5, 4)}
    header = f'{{"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.{option}": true}}'
    save_file(pair, tmp_path / "a.safetensors", {"format": "pt", "lora_adapter_metadata": header})
    with pytest.raises(AdapterFormatError, match=f"{option}=True, which is more than"):
        Adapter.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("format", ["comfyui", "kohya"])
def test_a_negative_alpha_is_stored_as_a_positive_one(format: str, saved: Any, tmp_path: Path) -> None:
    """Readers divide the stored alpha by powers of two until it fits; diffusers never ends with one below 0."""
    folder, expected = saved(r=4, lora_alpha=-3)
    Adapter.load(folder).save(tmp_path / "a.safetensors", format)
    stored = read_tensors(tmp_path / "a.safetensors")
    alphas = [tensor.item() for key, tensor in stored.items() if key.endswith(".alpha")]
    assert len(alphas) == 12 and min(alphas) > 0
    again = Adapter.load(tmp_path / "a.safetensors")
    for depth, delta_w in enumerate(expected):
        torch.testing.assert_close(again.delta_weight(name(depth)), delta_w)
