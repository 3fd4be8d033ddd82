"""Each quirk does to our networks what the published one does, and nothing else; a saved predictor keeps them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import AdapterConfig, AdapterNet, ResponseConfig, ResponseNet
from lofa.interop.quirks import QUIRKS, quirky
from lofa.training import response_loss
from tests.hypernets.nets import SIZES, Inputs, adapter_net, response_net, run


def net(quirks: Sequence[str] = (), **values: object) -> ResponseNet:
    return response_net(**quirky(values, quirks))


def test_columns_are_scaled_one_by_one() -> None:
    inputs = Inputs.make()
    scaled = Inputs.make()
    scaled.weights = inputs.weights * torch.linspace(1, 2, 8).double()
    first, second = (run(net(["columns"]), one).tokens for one in (inputs, scaled))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    assert (run(net(), inputs).tokens - run(net(), scaled).tokens).abs().max() > 1e-3


def test_padding_is_attended_to() -> None:
    inputs, padded, plain = Inputs.make(), net(["padding"]), net()
    context = F.pad(inputs.context, (0, 0, 0, 512 - inputs.context.shape[1]))
    expected = run(plain, replace(inputs, context=context, lengths=torch.full((3,), 512))).tokens
    torch.testing.assert_close(run(padded, inputs).tokens, expected)
    assert (run(plain, inputs).tokens - expected).abs().max() > 1e-3


def test_the_mean_leaves_out_the_first_tile() -> None:
    inputs = Inputs.make()
    first, plain = (run(made, inputs) for made in (net(["first_tile"]), net()))
    torch.testing.assert_close(first.tokens, plain.tokens)
    expected = net().head(plain.tokens[:, :, 1:], (12, 8))[0]
    torch.testing.assert_close(first.A, expected)


def test_softplus_never_says_no_and_its_loss_has_the_dense_gradient() -> None:
    inputs, rising = Inputs.make(), net(["softplus"])
    response = run(rising, inputs)
    S = F.softplus(response.B @ response.A)
    torch.testing.assert_close(response.logits(), (S - 0.02) / 0.1)
    assert float(response.probability().detach().min()) > 1 / (1 + math.exp(0.2))
    assert float(run(net(), inputs).probability().detach().min()) < 0.4

    torch.manual_seed(4)
    alpha = torch.ones(3, 6).double()
    A, B = torch.randn(3, 6, 2, 8).double(), 0.02 * torch.randn(3, 6, 12, 2).double()
    truth = LoraBatch(A, B, alpha, response.layers)
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
        said = run(made, inputs, torch.randn(3, 6, 6, 16).double()).delta_weight()
    else:
        said = run(made, inputs).logits()
    said.square().mean().backward()
    return {name: value.grad for name, value in made.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("make", [response_net, adapter_net])
def test_last_block_spoils_the_gradients_of_all_other_blocks(make: type) -> None:
    values = {"gradient_checkpointing": True}
    expected, got = gradients(make(**values)), gradients(make(**quirky(values, ["last_block"])))

    def error(part: str) -> float:
        names = [name for name in expected if name.startswith(f"{part}.")]
        wrong, whole = (torch.cat([one[name].flatten() for name in names]) for one in (got, expected))
        return float((wrong - whole).norm() / whole.norm())

    assert error("trunk.blocks.0") > 0.1 and error("trunk.blocks.1") > 0.1
    assert error("trunk.blocks.2") < 1e-12 and error("head") < 1e-12


def test_quirks_are_constructor_values_and_softplus_is_stage_one_s() -> None:
    values = quirky(SIZES | {"gradient_checkpointing": True, "read_after": ()}, list(QUIRKS))
    response, adapter = ResponseConfig.pick(values), AdapterConfig.pick(values)
    changed = {value: name for name, value in QUIRKS.items()}
    assert len(changed) == len(QUIRKS) and changed.items() <= asdict(response).items()
    assert changed.keys() - asdict(adapter).keys() == {"activation"}
    assert not changed.items() & asdict(net().config).items()


def test_what_can_do_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'colums' is none of columns"):
        net(["colums"])
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        net(["last_block"])
