"""The hypernetworks that LoFA is compared with."""

from typing import Any

import pytest
import torch

from lofa.adapters import LoraBatch
from lofa.hypernets import HYPERNETS, AdapterConfig, AdapterNet
from lofa.hypernets.heads import LightweightHead
from lofa.hypernets.prompt_tokens import PromptTokensNet
from lofa.hypernets.text_to_lora import TextToLoraNet
from tests.hypernets.nets import SIZES, Inputs, prepared

KINDS: dict[str, type] = {"text_to_lora": TextToLoraNet, "prompt_tokens": PromptTokensNet, "lightweight": AdapterNet}


def make(kind: str) -> Any:
    """A network of the kind, whose B is not zero any more."""
    torch.manual_seed(0)
    net = KINDS[kind](AdapterConfig.pick({**SIZES, **HYPERNETS[kind].fixed})).double()
    for parameter in net.head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def adapt(net: Any, inputs: Inputs) -> LoraBatch:
    return net.adapt(prepared(net, inputs), inputs.context, inputs.lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_one_changes_nothing(kind: str) -> None:
    net = KINDS[kind](AdapterConfig.pick({**SIZES, **HYPERNETS[kind].fixed, "alpha_init": 0.25})).double()
    made = adapt(net, Inputs.make())
    assert made.A.shape == (3, 6, 2, 8) and made.B.shape == (3, 6, 12, 2) and made.A.any()
    assert not made.delta_weight().any()
    torch.testing.assert_close(made.alpha, torch.full((3, 6), 0.25).double())


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_read_and_do_not_mix(kind: str) -> None:
    net, inputs = make(kind), Inputs.make()
    whole = adapt(net, inputs).delta_weight()
    for row in range(3):
        alone = adapt(net, inputs.prompts(slice(row, row + 1))).delta_weight()
        torch.testing.assert_close(alone[0], whole[row])
    assert (whole[0] - whole[1]).abs().amax((1, 2)).min() > 1e-4, "no layer is the same for two prompts"
    inputs.context = torch.nn.functional.pad(inputs.context, (0, 0, 0, 5))
    torch.testing.assert_close(adapt(net, inputs).delta_weight(), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_told_apart_in_any_order(kind: str) -> None:
    net, inputs, order = make(kind), Inputs.make(), torch.tensor([4, 0, 5, 2, 1, 3])
    whole = adapt(net, inputs).delta_weight()
    torch.testing.assert_close(adapt(net, inputs.layers(order)).delta_weight(), whole[:, order])
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_gradient(kind: str) -> None:
    net = make(kind)
    made = adapt(net, Inputs.make())
    (made.delta_weight() * torch.randn(made.delta_weight().shape).double()).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize(("kind", "reads"), [("text_to_lora", False), ("prompt_tokens", False), ("lightweight", True)])
def test_which_of_them_read_the_weights(kind: str, reads: bool) -> None:
    net, inputs = make(kind), Inputs.make()
    before = adapt(net, inputs).delta_weight()
    inputs.weights = torch.randn_like(inputs.weights)
    assert torch.equal(adapt(net, inputs).delta_weight(), before) != reads


def test_checkpointed_gradients_are_the_plain_ones() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        values = {**SIZES, "read_after": (), "gradient_checkpointing": checkpointing}
        net = PromptTokensNet(AdapterConfig.pick(values)).double()
        made = adapt(net, Inputs.make())
        (made.A.square().sum() + made.alpha.sum()).backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(*gradients, strict=True))


def test_lightweight_adapters_lie_in_fixed_orthogonal_bases() -> None:
    config = AdapterConfig.pick({**SIZES, "shapes": [[160, 240]], "read_after": (), "head": "lightweight"})
    head, tokens = LightweightHead(config, 0.1).double(), torch.randn(2, 3, 4, 16).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    A, B, alpha = head(tokens, (160, 240))
    assert A.shape == (2, 3, 2, 240) and B.shape == (2, 3, 160, 2) and alpha.shape == (2, 3)
    Q_in, Q_out = head.basis_0_240, head.basis_1_160
    assert Q_in.shape == (240, 100) and Q_out.shape == (160, 50)
    for Q in (Q_in, Q_out):
        torch.testing.assert_close(Q.T @ Q, torch.eye(Q.shape[1]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(A @ Q_in @ Q_in.T, A, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(Q_out @ (Q_out.T @ B), B, atol=1e-5, rtol=1e-5)
    assert {"basis_0_240", "basis_1_160"} <= set(head.state_dict())
