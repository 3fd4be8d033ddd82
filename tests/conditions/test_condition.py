"""Batches of condition tokens: what goes in row by row comes out row by row."""

import pytest
import torch

from lofa.conditions import Condition

ROWS = [torch.randn(n, 3) for n in (2, 5, 1)]
EXTRAS = {"pooled": torch.randn(3, 7), "size": torch.tensor([[1, 2], [3, 4], [5, 6]])}


def test_rows_come_back_without_padding_and_padding_is_zero() -> None:
    condition = Condition.from_rows(ROWS)
    assert condition.tokens.shape == (3, 5, 3) and condition.lengths.tolist() == [2, 5, 1] and len(condition) == 3
    assert all(torch.equal(condition.row(i), row) for i, row in enumerate(ROWS))
    assert condition.tokens[0, 2:].abs().sum() == 0


def test_slicing_then_joining_gives_the_same_rows() -> None:
    condition = Condition.from_rows(ROWS, EXTRAS)
    joined = Condition.cat([condition[:1], condition[torch.tensor([1, 2])]])
    assert torch.equal(joined.tokens, condition.tokens) and torch.equal(joined.lengths, condition.lengths)
    assert all(torch.equal(joined.extras[name], value) for name, value in EXTRAS.items())


def test_dtype_applies_to_floating_tensors_alone() -> None:
    moved = Condition.from_rows(ROWS, EXTRAS).to("cpu", torch.bfloat16)
    assert moved.tokens.dtype == moved.extras["pooled"].dtype == torch.bfloat16
    assert moved.lengths.dtype == moved.extras["size"].dtype == torch.int64


def test_rows_of_other_shapes_make_no_batch() -> None:
    with pytest.raises(ValueError, match="agree in all but their length"):
        Condition.from_rows([torch.zeros(2, 3), torch.zeros(2, 4)])
