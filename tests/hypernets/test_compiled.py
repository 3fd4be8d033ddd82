"""Compiled blocks give what they gave, and change nothing that is saved."""

import shutil

import pytest
import torch

from lofa.hypernets import compile_blocks
from tests.hypernets.nets import Inputs, adapter_net, response_net, run


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_blocks_give_the_same_in_value_and_gradient() -> None:
    inputs, found = Inputs.make(), []
    for compiled in (False, True):
        first, second = response_net(), adapter_net(gradient_checkpointing=True)
        names = list(second.state_dict())
        if compiled:
            compile_blocks(first)
            compile_blocks(second)
        delta = run(second, inputs, run(first, inputs).tokens).delta_weight()
        delta.square().mean().backward()
        assert list(second.state_dict()) == names
        found.append([delta.detach(), *(p.grad for net in (first, second) for p in net.parameters())])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(plain, fast)
