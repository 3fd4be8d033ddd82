"""The schedule, the loop and matching by contrast."""

import io
import itertools

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from lofa.pretrain import Schedule
from lofa.pretrain.fit import contrastive_loss, fit, share_found


@pytest.mark.parametrize("steps, warmup", [(10, 0.0), (10, 0.2), (100, 0.05), (7, 0.5), (1, 0.05)])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps: int, warmup: float) -> None:
    schedule = Schedule(steps, batch=1, lr=1.0, warmup=warmup)
    rates = [schedule.rate(step) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == 1.0
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0 and schedule.rate(steps) == 0
    assert top + 1 == max(1, round(warmup * steps))


def test_fit_goes_down_a_bowl_and_leaves_what_is_frozen() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    log = io.StringIO()
    fit(
        "bowl",
        [parameter, frozen],
        Schedule(100, 1, 0.2),
        lambda step: (parameter * frozen).square().sum(),
        Console(file=log),
    )
    assert parameter.square().sum() < 0.01 * 13
    assert torch.equal(frozen, torch.ones(2))
    assert log.getvalue().count("of 100, loss") == 10


def test_contrastive_loss_is_least_where_the_rows_match() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn((5, 8), generator=generator)
    left, right = (F.normalize(rows, dim=-1) for rows in (left, left + 0.1 * torch.randn((5, 8), generator=generator)))
    scale = torch.tensor(12.0)
    matched = contrastive_loss(left, right, scale)
    assert share_found(left, right) == 1
    for order in itertools.permutations(range(5)):
        if order != tuple(range(5)):
            assert contrastive_loss(left, right[list(order)], scale) > matched
            assert share_found(left, right[list(order)]) == sum(i == j for i, j in enumerate(order)) / 5
    torch.testing.assert_close(contrastive_loss(right, left, scale), matched)
    assert contrastive_loss(left, left, torch.tensor(100.0)) < 1e-6
    same = torch.ones(5, 8)
    torch.testing.assert_close(contrastive_loss(same, same, scale), torch.tensor(5.0).log())
