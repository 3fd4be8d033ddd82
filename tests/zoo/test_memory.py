from dataclasses import replace

import pytest
import torch

from lofa.backbones import Backbone
from lofa.zoo import LoraOptions, train_loras
from lofa.zoo.memory import free_memory, peak_memory
from lofa.zoo.trainer import loras_at_once
from tests.zoo.sets import jobs

OPTIONS = LoraOptions(rank=2, steps=2, clips_per_step=2, probe_levels=2)
MILLION = torch.Size([1000, 250])  # float32: 1e6 bytes


def test_tensors_count_while_they_exist_and_views_do_not() -> None:
    def compute() -> None:
        one = torch.zeros(MILLION)
        two = one + 1
        del one
        (two.t() * 2).relu_()

    assert peak_memory(compute) == 2_000_000


def test_what_the_backward_pass_keeps_and_makes_counts() -> None:
    weight = torch.zeros(MILLION, requires_grad=True)
    assert peak_memory(lambda: (weight * 2).exp().sum().backward()) >= 2_000_000


def test_more_memory_takes_more_loras_up_to_a_limit(backbone: Backbone) -> None:
    def at_once(gibibytes: float) -> int:
        return loras_at_once(backbone, jobs(backbone, 1)[0], replace(OPTIONS, memory=gibibytes))

    counts = [at_once(size) for size in (1e-6, 0.01, 0.02, 100.0)]
    assert counts[0] == 1 and counts == sorted(counts) and len(set(counts)) > 2 and counts[-1] == 32
    assert at_once(0.01) == counts[1]
    assert loras_at_once(backbone, jobs(backbone, 1)[0], replace(OPTIONS, batch=5)) == 5
    assert free_memory(torch.device("cpu")) > 0


def test_a_batch_that_fits_needs_no_more_than_it_was_given(backbone: Backbone) -> None:
    budget = 0.02
    count = loras_at_once(backbone, jobs(backbone, 1)[0], replace(OPTIONS, memory=budget))
    asked = [jobs(backbone, 1)[0]] * count
    used = peak_memory(lambda: train_loras(backbone, asked, replace(OPTIONS, batch=count)))
    assert used == pytest.approx(budget * 2**30, rel=0.35)
