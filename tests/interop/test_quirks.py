"""Each quirk does to our networks what the published one does, and nothing else; a saved predictor keeps them."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lofa.hypernets import AdapterNet, ResponseNet, WeightPrediction
from lofa.interop.quirks import QUIRKS, add_quirks
from lofa.training import response_loss
from tests.hypernets.nets import Inputs, adapter_net, response_net


def net(quirks: Sequence[str] = (), **values: object) -> ResponseNet:
    made = response_net(**values)
    add_quirks(made, quirks)
    return made


def test_columns_are_scaled_one_by_one() -> None:
    inputs = Inputs.make()
    scaled = Inputs.make()
    scaled.weights = inputs.weights * torch.linspace(1, 2, 8).double()
    first, second = (net(["columns"])(*one.all()).tokens for one in (inputs, scaled))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    assert (net()(*inputs.all()).tokens - net()(*scaled.all()).tokens).abs().max() > 1e-3


def test_padding_is_attended_to() -> None:
    inputs, quirky, plain = Inputs.make(), net(["padding"]), net()
    context = F.pad(inputs.context, (0, 0, 0, 512 - inputs.context.shape[1]))
    expected = plain(inputs.weights, inputs.depth, inputs.kind, context, torch.full((3,), 512)).tokens
    torch.testing.assert_close(quirky(*inputs.all()).tokens, expected)
    assert (plain(*inputs.all()).tokens - expected).abs().max() > 1e-3


def test_the_mean_leaves_out_the_first_tile() -> None:
    inputs = Inputs.make()
    quirky, plain = (made(*inputs.all()) for made in (net(["first_tile"]), net()))
    torch.testing.assert_close(quirky.tokens, plain.tokens)
    expected = net().head(plain.tokens[:, :, 1:].mean(2), (12, 8))[0]
    torch.testing.assert_close(quirky.A, expected)


def test_softplus_never_says_no_and_its_loss_has_the_dense_gradient() -> None:
    inputs, quirky = Inputs.make(), net(["softplus"])
    response = quirky(*inputs.all())
    S = F.softplus(response.B @ response.A)
    torch.testing.assert_close(response.logits(), (S - 0.02) / 0.1)
    assert float(response.probability().detach().min()) > 1 / (1 + math.exp(0.2))
    assert float(net()(*inputs.all()).probability().detach().min()) < 0.4

    torch.manual_seed(4)
    alpha = torch.ones(3, 6).double()
    truth = WeightPrediction(torch.randn(3, 6, 2, 8).double(), 0.02 * torch.randn(3, 6, 12, 2).double(), alpha)
    target = truth.delta_weight().abs() > 0.02 * (inputs.weights.abs() + 1e-8)
    dense = F.binary_cross_entropy_with_logits((S - 0.02) / 0.1, target.double())
    tiled, _ = response_loss([(response, inputs.weights, truth)])
    torch.testing.assert_close(tiled, dense)
    leaves = (response.A, response.B)
    for got, expected in zip(
        torch.autograd.grad(tiled, leaves, retain_graph=True),
        torch.autograd.grad(dense, leaves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def gradients(made: ResponseNet | AdapterNet) -> dict[str, Tensor]:
    inputs = Inputs.make()
    if isinstance(made, AdapterNet):
        torch.manual_seed(7)
        said = made(*inputs.all(), torch.randn(3, 6, 6, 16).double()).delta_weight()
    else:
        said = made(*inputs.all()).logits()
    said.square().mean().backward()
    return {name: value.grad for name, value in made.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("make", [response_net, adapter_net])
def test_last_block_spoils_the_gradients_of_all_other_blocks(make: type) -> None:
    right, quirky = make(gradient_checkpointing=True), make(gradient_checkpointing=True)
    add_quirks(quirky, ["last_block"])
    expected, got = gradients(right), gradients(quirky)

    def error(part: str) -> float:
        names = [name for name in expected if name.startswith(f"{part}.")]
        wrong, whole = (torch.cat([one[name].flatten() for name in names]) for one in (got, expected))
        return float((wrong - whole).norm() / whole.norm())

    assert error("blocks.0") > 0.1 and error("blocks.1") > 0.1
    assert error("blocks.2") < 1e-12 and error("head") < 1e-12


def test_quirks_are_part_of_the_config_and_softplus_is_stage_one_s() -> None:
    made = adapter_net(gradient_checkpointing=True)
    add_quirks(made, list(QUIRKS))
    assert made.config["quirks"] == [name for name in QUIRKS if name != "softplus"]
    assert isinstance(made, AdapterNet) and type(made).__name__ == "AdapterNet"
    assert "quirks" not in net().config


def test_what_can_do_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'colums' is none of columns"):
        net(["colums"])
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        net(["last_block"])
