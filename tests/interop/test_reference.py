"""The published network, rebuilt: its outputs and gradients on recorded vectors, and what a wrong file or key says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lofa.errors import ConfigError, DataError
from lofa.interop.config import ReferenceConfig
from lofa.interop.quirks import collapse_padding
from lofa.interop.reference import ReferenceAdapterNet, ReferenceResponseNet, load_hypernet

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
    figures = {name: difference(got[name].detach(), value) for name, value in outputs.items()}
    figures |= {f"grad {name}": difference(parameters[name].grad, value) for name, value in gradients.items()}
    assert max(figures.values()) <= BAR, figures


SMALL = next(path for path in GOLDEN if "small" in path.stem)


@pytest.mark.parametrize("text", ["one", "batch of one", "per layer"])
def test_the_text_may_come_once_or_per_layer(text: str) -> None:
    golden = Golden(SMALL)
    net = load_hypernet(golden.part("stage1.state."), 1, golden.config["stage1"]).double()
    W, depth, kind, tokens = golden.inputs()
    given = {"one": tokens, "batch of one": tokens[None], "per layer": tokens.expand(len(W), -1, -1)}[text]
    assert difference(net(W, depth, kind, given).logits.detach(), golden.tensors["stage1.out.logits"]) <= BAR


def test_padding_of_different_lengths_is_one_key_for_all_it_stands_for() -> None:
    golden = Golden(SMALL)
    net = load_hypernet(golden.part("stage1.state."), 1, golden.config["stage1"]).double()
    W, depth, kind, tokens = golden.inputs()
    texts = torch.randn(len(W), 12, tokens.shape[1], generator=torch.Generator().manual_seed(0)).double()
    for row, real in enumerate(range(2, 2 + len(W))):  # each layer with a prompt of another length
        texts[row, real:] = 0.0
    collapsed, bias = collapse_padding(texts)
    assert collapsed.shape[1] == len(W) + 2 and bias is not None
    dense = texts.clone().requires_grad_()  # tokens that want gradients are all kept
    assert collapse_padding(dense)[1] is None
    got, expected = net(W, depth, kind, texts).logits, net(W, depth, kind, dense).logits
    assert difference(got.detach(), expected.detach()) <= 1e-13


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_gives_what_its_state_dict_gives_in_the_stored_dtype(tmp_path: Path, suffix: str) -> None:
    golden = Golden(SMALL)
    state = {name: value.bfloat16() for name, value in golden.part("stage2.state.").items()}
    path = tmp_path / f"weights{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load_hypernet(path, 2, golden.config["stage2"]).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        (1, {"d_modle": 64}, r"stage 1 has no constructor value 'd_modle'; did you mean d_model\?"),
        (1, {"alpha_act": "none"}, "stage 1 has no constructor value 'alpha_act'"),
        (2, {"tau": 0.1}, "stage 2 has no constructor value 'tau'"),
        (1, {"d_model": "wide"}, "constructor value d_model=wide: "),
        (1, {"out_act": "relu"}, "out_act=relu: must be one of softplus, sigmoid"),
        (1, {"patch_size": 7}, "patch_size=7: must be a divisor of input_size 1536"),
        (2, {"cross_attn_idxs": "3,7"}, "constructor value cross_attn_idxs=3,7: "),
        (3, {}, "stage 1 and stage 2; got stage 3"),
    ],
)
def test_a_wrong_constructor_value_is_named(stage: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_hypernet({}, stage, values)


def test_keys_that_mean_nothing_are_passed_over() -> None:
    golden = Golden(SMALL)
    config = golden.config["stage1"] | {"factorized": True, "_target_": "anything"}
    load_hypernet(golden.part("stage1.state."), 1, config)


def test_weights_that_do_not_fit_are_listed() -> None:
    golden = Golden(SMALL)
    state = golden.part("stage1.state.")
    state["extra.weight"] = torch.zeros(1)
    state["norm.bias"] = torch.zeros(3)
    del state["head_A.bias"]
    lists = r"Missing.*head_A.bias.*Unexpected.*extra.weight.*norm.bias.*\[3\].*\[64\]"
    with pytest.raises(DataError, match=lists):
        load_hypernet(state, 1, golden.config["stage1"])


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    broken, listing = tmp_path / "broken.pth", tmp_path / "list.pth"
    broken.write_bytes(b"not a checkpoint")
    torch.save([1, 2], listing)
    for path in (broken, listing, tmp_path / "absent.pth", tmp_path / "absent.safetensors"):
        with pytest.raises(DataError, match=path.name):
            load_hypernet(path, 1, {"n_blocks": 1})


def test_sizes_at_wan_1_3b_are_the_published_ones() -> None:
    values, stages = ReferenceConfig(patch_size=96), (ReferenceResponseNet, ReferenceAdapterNet)
    with torch.device("meta"):
        counts = [sum(p.numel() for p in stage(values).parameters()) for stage in stages]
    assert [round(count / 1e6, 1) for count in counts] == [199.3, 213.5]
