"""What each stage alone promises."""

import pytest
import torch
import torch.nn.functional as F

from lofa.hypernets import AdapterConfig, AdapterNet, ResponseConfig, ResponseNet
from tests.hypernets.nets import SIZES, Inputs, adapter_net, run


def test_a_response_probability_can_go_near_zero_and_near_one() -> None:
    torch.manual_seed(0)
    net, inputs = ResponseNet(ResponseConfig(**(SIZES | {"n_blocks": 1}))).double(), Inputs.make()
    target = torch.zeros(3, 6, 12, 8).double()
    target[..., 0] = 1
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-2)
    for _ in range(50):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(run(net, inputs).logits(), target).backward()
        optimizer.step()
    probability = run(net, inputs).probability()
    assert probability[target == 0].max() < 0.02
    assert probability[target == 1].min() > 0.98


def test_a_fresh_adapter_changes_nothing_and_starts_at_the_scale_asked() -> None:
    net = AdapterNet(AdapterConfig(**SIZES, response_width=16, read_after=(1,), alpha_init=0.25)).double()
    out = run(net, Inputs.make(), torch.randn(3, 6, 6, 16).double())
    assert not out.delta_weight().any()
    assert torch.allclose(out.alpha, torch.full((3, 6), 0.25).double(), atol=1e-6)


def test_a_fresh_head_makes_the_A_of_a_fresh_lora() -> None:
    torch.manual_seed(0)
    values = SIZES | {"d_model": 64, "shapes": [[12, 64]], "lora_rank": 8}
    net = AdapterNet(AdapterConfig(**values, read_after=()))
    A = net.head(torch.randn(1, 100, 1, 64), (12, 64))[0]
    assert A.std().item() == pytest.approx((3 * 64) ** -0.5, rel=0.2)


def test_stage_one_is_read_by_prompt_and_layer() -> None:
    net, inputs, tokens = adapter_net(), Inputs.make(), torch.randn(3, 6, 6, 16).double()
    before = run(net, inputs, tokens).delta_weight()
    tokens[1, 2] += 1
    moved = (run(net, inputs, tokens).delta_weight() - before).abs().amax((2, 3)) > 0
    assert moved.nonzero().tolist() == [[1, 2]]


def test_without_reads_no_stage_one_is_needed_and_with_them_it_is() -> None:
    assert run(adapter_net(read_after=()), Inputs.make(), None).A.shape == (3, 6, 2, 8)
    with pytest.raises(ValueError, match=r"response_tokens must be \(3, 6, T, 16\)"):
        run(adapter_net(), Inputs.make(), None)


def test_stage_one_may_have_another_width_and_another_number_of_tokens() -> None:
    out = run(adapter_net(response_width=7), Inputs.make(), torch.randn(3, 6, 9, 7).double())
    assert out.alpha.isfinite().all()
