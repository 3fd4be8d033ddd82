"""Both products of attention give the same; which one is used is no part of a network's files."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lofa.hypernets import use_attention
from tests.hypernets.nets import Inputs, response_net, run

HAVE_FLASH = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def _one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*(value.transpose(-2, -3) for value in (q, k, v))).transpose(-2, -3)


def _varlen(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, ends: Tensor, longest_q: int, longest_k: int) -> Tensor:
    """What flash-attn's function of that name is documented to give, one sequence after the other."""
    assert longest_q == int(rows.diff().max()) and longest_k == int(ends.diff().max())
    assert rows.dtype == ends.dtype == torch.int32
    spans = zip(rows[:-1], rows[1:], ends[:-1], ends[1:], strict=True)
    return torch.cat([_one(q[a:b], k[c:d], v[c:d]) for a, b, c, d in spans])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A flash_attn of the documented layout, computed by PyTorch."""
    monkeypatch.setitem(
        sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=_one, flash_attn_varlen_func=_varlen)
    )
    yield


@pytest.mark.parametrize("lengths", [[4, 7, 2], [7, 7, 7]])
def test_packed_prompts_give_what_masked_ones_give(stand_in: None, lengths: list[int]) -> None:
    net, inputs = response_net(), Inputs.make()
    inputs.context, inputs.lengths = torch.randn(3, 7, 5).double(), torch.tensor(lengths)
    expected, config = run(net, inputs), net.config
    use_attention(net, "flash_attn")
    torch.testing.assert_close(run(net, inputs).tokens, expected.tokens, rtol=1e-12, atol=1e-12)
    assert net.config == config
    use_attention(net, "sdpa")
    assert torch.equal(run(net, inputs).tokens, expected.tokens)


@pytest.mark.skipif(not HAVE_FLASH, reason="needs a GPU of compute capability 8 or more")
def test_flash_attention_on_a_gpu_is_close_to_pytorchs() -> None:
    pytest.importorskip("flash_attn")
    net, inputs = response_net().cuda().bfloat16(), Inputs.make()
    inputs.weights, inputs.context = inputs.weights.cuda().bfloat16(), inputs.context.cuda().bfloat16()
    inputs.lengths = inputs.lengths.cuda()
    expected = run(net, inputs).tokens
    use_attention(net, "flash_attn")
    torch.testing.assert_close(run(net, inputs).tokens, expected, rtol=2e-2, atol=2e-2)


def test_a_missing_package_and_an_unknown_name_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ImportError):
        use_attention(response_net(), "flash_attn")
    with pytest.raises(ValueError, match="'flush' is none of sdpa, flash_attn"):
        use_attention(response_net(), "flush")
