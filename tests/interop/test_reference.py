"""The published network, rebuilt: its outputs and gradients on recorded vectors, and what a wrong file or key says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lofa.errors import ConfigError, DataError
from lofa.interop.reference import load_hypernet

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("reference_*.safetensors"))
BAR = 3e-7


class Golden:
    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.config: dict[str, dict[str, Any]] = {key: json.loads(text) for key, text in file.metadata().items()}

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t = self.tensors
        return t["W"].double(), t["depth_id"], t["type_id"], t["text_emb"].double()


def difference(got: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_outputs_and_gradients_match_the_published_network(golden: Golden, stage: int, checkpointing: bool) -> None:
    config = golden.config[f"stage{stage}"] | {"gradient_checkpointing": checkpointing}
    net = load_hypernet(golden.part(f"stage{stage}.state."), stage, config).double()
    if stage == 1:
        out = net(*golden.inputs())
        got = {"hidden_states": out.tokens, "S": out.S, "logits": out.logits, "A": out.A, "B": out.B}
        out.logits.square().mean().backward()
    else:
        out = net(*golden.inputs(), golden.tensors["stage1.out.hidden_states"].double())
        got = {"A": out.A, "B": out.B, "alpha": out.alpha[:, None], "delta_w": out.delta_w}
        out.delta_w.square().mean().backward()
    outputs, gradients = golden.part(f"stage{stage}.out."), golden.part(f"stage{stage}.grad.")
    assert outputs.keys() == got.keys()
    parameters = dict(net.named_parameters())
    figures = {name: difference(got[name], value) for name, value in outputs.items()}
    figures |= {f"grad {name}": difference(parameters[name].grad, value) for name, value in gradients.items()}
    assert max(figures.values()) <= BAR, figures
