"""The schedule and the loop."""

import io

import pytest
import torch
from rich.console import Console

from lofa.pretrain.fit import Schedule, fit


@pytest.mark.parametrize("steps, warmup", [(10, 0.0), (10, 0.2), (100, 0.05), (7, 0.5), (1, 0.05)])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps: int, warmup: float) -> None:
    schedule = Schedule(steps, batch=1, lr=1.0, warmup=warmup)
    rates = [schedule.rate(step) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == 1.0
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0 and schedule.rate(steps) == 0
    assert top + 1 == max(1, round(warmup * steps))


def test_fit_goes_down_a_bowl_and_keeps_every_loss() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    log = io.StringIO()
    losses = fit(
        "bowl",
        [parameter, frozen],
        Schedule(100, 1, 0.2),
        lambda step: (parameter * frozen).square().sum(),
        Console(file=log),
    )
    assert len(losses) == 100
    assert losses[-1] < 0.01 * losses[0]
    assert torch.equal(frozen, torch.ones(2))
    assert log.getvalue().count("of 100, loss") == 10
