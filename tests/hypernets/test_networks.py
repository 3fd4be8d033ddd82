"""Laws both hypernetworks obey."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.errors import ConfigError
from lofa.hypernets import AdapterConfig, AdapterNet, Response, ResponseConfig, ResponseNet
from lofa.hypernets.tiling import tile_side
from tests.hypernets.nets import SIZES, Inputs, adapter_net, prepared, response_net, run

MAKERS = {"ResponseNet": response_net, "AdapterNet": adapter_net}
both = pytest.mark.parametrize("name", list(MAKERS))
TOKENS = torch.randn(3, 6, 6, 16, generator=torch.Generator().manual_seed(4)).double()


def outputs(net: nn.Module, inputs: Inputs, tokens: Tensor = TOKENS) -> dict[str, Tensor]:
    """Everything a network predicts, prompts first, layers second."""
    if isinstance(net, ResponseNet):
        out: Response = run(net, inputs)
        return {"tokens": out.tokens, "A": out.A, "B": out.B, "logits": out.logits(), "probability": out.probability()}
    predicted: LoraBatch = run(net, inputs, tokens)
    return {"A": predicted.A, "B": predicted.B, "alpha": predicted.alpha, "delta_w": predicted.delta_weight()}


def cached_net(name: str, **values: Any) -> ResponseNet | AdapterNet:
    """A network whose last block alone reads the condition."""
    return MAKERS[name](condition_from=2, **({} if name == "ResponseNet" else {"read_after": (2,)}), **values)


def gradients(net: nn.Module) -> dict[str, Tensor]:
    net.zero_grad()
    sum(value.square().sum() for value in outputs(net, Inputs.make()).values()).backward()
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def agree(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-12) for name in a)


def test_shapes() -> None:
    P, L, r, n_out, n_in = 3, 6, 2, 12, 8
    response, adapter = outputs(response_net(), Inputs.make()), outputs(adapter_net(), Inputs.make())
    assert response["tokens"].shape == (P, L, 6, 16)
    assert response["logits"].shape == response["probability"].shape == adapter["delta_w"].shape == (P, L, n_out, n_in)
    for out in (response, adapter):
        assert out["A"].shape == (P, L, r, n_in) and out["B"].shape == (P, L, n_out, r)
    assert adapter["alpha"].shape == (P, L) and bool((adapter["alpha"] > 0).all())


@both
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    for parameter, gradient in gradients(MAKERS[name]()).items():
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), parameter


@both
def test_checkpointed_gradient_is_the_plain_gradient(name: str) -> None:
    plain, checkpointed = (gradients(MAKERS[name](gradient_checkpointing=on)) for on in (False, True))
    assert agree(plain, checkpointed)


@both
def test_a_network_that_reads_late_learns_in_all_its_parameters_and_recomputes_right(name: str) -> None:
    plain, checkpointed = (gradients(cached_net(name, gradient_checkpointing=on)) for on in (False, True))
    assert all(gradient is not None and gradient.any() for gradient in plain.values())
    assert agree(plain, checkpointed)


@both
@pytest.mark.parametrize("make", [lambda name: MAKERS[name](), cached_net], ids=["full", "cached"])
def test_what_depends_on_the_weights_alone_may_be_kept(name: str, make: Callable[[str], Any]) -> None:
    net, inputs = make(name), Inputs.make()
    expected, kept = outputs(net, inputs), prepared(net, inputs)
    assert kept.tokens.shape == (1, 6, 6, 16) and kept.shape == (12, 8)
    order, names = torch.tensor([4, 1, 5]), ("layer.4", "layer.1", "layer.5")
    for i in (0, 2):
        one = inputs.prompts(slice(i, i + 1))
        if isinstance(net, ResponseNet):
            out = net.respond(kept.select(names), one.context, one.lengths)
            assert torch.equal(net.tokens(kept.select(names), one.context, one.lengths), out.tokens)
        else:
            out = net.adapt(kept.select(names), one.context, one.lengths, TOKENS[i : i + 1, order])
        assert out.layers == names
        for key in ("A", "B"):
            torch.testing.assert_close(getattr(out, key), expected[key][i : i + 1, order], rtol=1e-10, atol=1e-12)


@both
def test_prompts_of_a_batch_do_not_touch_each_other(name: str) -> None:
    net, inputs = MAKERS[name](), Inputs.make()
    together = outputs(net, inputs)
    for i in range(3):
        alone = outputs(net, inputs.prompts(slice(i, i + 1)), TOKENS[i : i + 1])
        assert agree({key: value[i : i + 1] for key, value in together.items()}, alone)


@both
def test_layers_do_not_touch_each_other(name: str) -> None:
    net, inputs, order = MAKERS[name](), Inputs.make(), torch.tensor([4, 1, 5, 0])
    picked = outputs(net, inputs.layers(order), TOKENS[:, order])
    assert agree({key: value[:, order] for key, value in outputs(net, inputs).items()}, picked)


@both
def test_layers_of_several_shapes_share_what_they_have_in_common(name: str) -> None:
    net, square, inputs = MAKERS[name](shapes=[[12, 8], [8, 12], [8, 8]]), MAKERS[name](), Inputs.make()
    assert set(net.trunk.tiles.row) == {"12", "8"} == set(net.head.A) and set(net.trunk.tiles.patch) == {"4x4"}
    shared = {key: value for key, value in net.state_dict().items() if key in square.state_dict()}
    square.load_state_dict(shared)
    assert agree(outputs(net, inputs), outputs(square, inputs))
    turned = replace(inputs, weights=inputs.weights.mT.contiguous())
    for weights in (turned.weights, inputs.weights[:, :8]):
        out = outputs(net, replace(inputs, weights=weights), torch.randn(3, 6, 4, 16).double())
        assert out["A"].shape == (3, 6, 2, weights.shape[2]) and out["B"].shape == (3, 6, weights.shape[1], 2)
    for parameter, gradient in gradients(net).items():
        assert gradient is None or gradient.isfinite().all(), parameter


@pytest.mark.parametrize(("size", "wanted", "side"), [(1536, 96, 96), (8960, 96, 112), (320, 96, 80), (96, 48, 48)])
def test_tiles_divide_the_axis_as_nearly_as_possible(size: int, wanted: int, side: int) -> None:
    assert tile_side(size, wanted) == side


@both
def test_padding_does_not_matter(name: str) -> None:
    net, inputs = MAKERS[name](), Inputs.make()
    expected = outputs(net, inputs)
    inputs.context = torch.cat([inputs.context, torch.zeros(3, 4, 5).double()], 1)
    inputs.context[torch.arange(11) >= inputs.lengths[:, None]] = 9.0
    assert agree(expected, outputs(net, inputs))


@both
def test_the_condition_the_depth_and_the_kind_matter(name: str) -> None:
    net, inputs = MAKERS[name](), Inputs.make()
    expected = outputs(net, inputs)["A"]
    for change in ("context", "depth", "kind"):
        changed = Inputs.make()
        setattr(changed, change, getattr(changed, change).flip(0))
        assert not torch.allclose(outputs(net, changed)["A"], expected, atol=1e-6), change


@both
def test_the_scale_of_a_weight_matrix_does_not_matter(name: str) -> None:
    net, inputs = MAKERS[name](), Inputs.make()
    expected = outputs(net, inputs)
    inputs.weights = inputs.weights * torch.tensor([0.01, 1, 3, 100, 0.5, 7]).double()[:, None, None]
    got = outputs(net, inputs)
    assert all(torch.allclose(got[key], expected[key], atol=1e-6) for key in got)


@both
def test_a_network_is_rebuilt_from_its_config_and_state(name: str) -> None:
    net = MAKERS[name](gradient_checkpointing=True)
    twin = type(net)(net.Config(**json.loads(json.dumps(asdict(net.config))))).double()
    twin.load_state_dict(net.state_dict())
    assert twin.config == net.config
    expected, got = outputs(net, Inputs.make()), outputs(twin, Inputs.make())
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@both
def test_bf16_autocast_stays_close_and_keeps_the_product_in_float32(name: str) -> None:
    net, inputs = MAKERS[name]().float(), Inputs.make()
    inputs.weights, inputs.context = inputs.weights.float(), inputs.context.float()
    plain = outputs(net, inputs, TOKENS.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = outputs(net, inputs, TOKENS.float())
    product = "logits" if name == "ResponseNet" else "delta_w"
    assert mixed[product].dtype == torch.float32
    assert (mixed[product] - plain[product]).norm() < 0.05 * plain[product].norm()


ONE_INFINITE = torch.ones(6, 12, 8).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(float("inf")))
ONE_COLUMN_OF_ZEROS = torch.ones(6, 12, 8).index_fill(2, torch.tensor(5), 0) + (torch.arange(6) != 4)[:, None, None]


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (
            "weights",
            torch.full((6, 12, 8), float("nan")),
            "6 of 6 weight matrices hold NaN.*: layer.0, layer.1, layer.2$",
        ),
        ("weights", ONE_INFINITE, "1 of 6 weight matrices hold NaN or infinity: layer.2$"),
        ("weights", ONE_COLUMN_OF_ZEROS, "1 of 6 weight matrices hold columns of zeros: layer.4$"),
        ("weights", torch.ones(6, 8, 12), r"must be \(12, 8\); those of layer.0 are \(8, 12\)"),
        ("depth", torch.arange(6), r"depth must lie in 0\.\.2; got 0\.\.5"),
        ("kind", torch.arange(6) - 1, r"kind must lie in 0\.\.1; got -1\.\.4"),
        ("context", torch.zeros(3, 7, 4), r"\(P, N, 5\)"),
        ("lengths", torch.tensor([4, 8, 2]), r"1\.\.7"),
        ("lengths", torch.tensor([4, 0, 2]), r"1\.\.7"),
    ],
)
def test_wrong_input_is_named(change: str, value: Tensor, message: str) -> None:
    inputs = Inputs.make()
    setattr(inputs, change, value)
    with pytest.raises(ValueError, match=message):
        run(response_net(), inputs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": 50}, "no divisor of 12 is near patch_size 50"),
        ({"n_heads": 3}, "n_heads 3"),
        ({"read_after": (1, 3)}, r"\[3\]"),
        ({"read_after": (0, 2), "condition_from": 1}, r"\[0\].* 1\.\.2"),
        ({"condition_from": 3}, "condition_from is 3"),
        ({"lora_rank": 0}, "lora_rank=0: must be at least 1"),
        ({"lora_rank": -1}, "lora_rank=-1: must be at least 1"),
        ({"patch_size": 0}, "patch_size=0: must be at least 1"),
        ({"d_model": 0}, "d_model=0: must be at least 1"),
        ({"n_heads": 0}, "n_heads=0: must be at least 1"),
        ({"n_heads": -1}, "n_heads=-1: must be at least 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio=0.0: must be above 0"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio=inf: must be a finite number"),
        ({"n_blocks": 0}, "n_blocks=0: must be at least 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        AdapterNet(AdapterConfig(**(SIZES | {"read_after": ()} | values)))


@pytest.mark.parametrize("name", ["tau", "temperature"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_response_map_has_a_finite_threshold_and_temperature(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*: must be"):
        ResponseConfig(**(SIZES | {name: value}))


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_starts_positive(value: float) -> None:
    with pytest.raises(ConfigError, match="alpha_init=.*: must be"):
        adapter_net(alpha_init=value)


@pytest.mark.parametrize("table", ["head", "normalisation", "padding", "pooling", "recomputation"])
def test_a_part_that_is_in_no_table_is_named(table: str) -> None:
    with pytest.raises(ValueError, match=f"{table} 'nothing' is none of "):
        adapter_net(**{table: "nothing"})
