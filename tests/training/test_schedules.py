import math

import pytest
import torch

from lofa.training import warmup_schedule


def rates(steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_schedule(optimizer, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_rises_then_stays() -> None:
    assert rates(6, warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_falls_to_the_floor() -> None:
    seen = rates(11, warmup=2, total=10, floor=0.1)
    cosine = [0.2 + 0.9 * (1 + math.cos(math.pi * done / 8)) for done in range(9)]
    assert seen == pytest.approx([1.0, 2.0, *cosine]) and cosine[0] == 2.0 and cosine[8] == pytest.approx(0.2)


def test_stays_at_the_floor_after_the_end() -> None:
    assert rates(15, warmup=2, total=10, floor=0.1)[10:] == pytest.approx([0.2] * 5)


def test_refuses_a_warmup_that_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="warm-up of 5"):
        rates(1, warmup=5, total=5)
