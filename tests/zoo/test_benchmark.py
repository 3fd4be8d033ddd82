from pathlib import Path

import pytest

from benchmarks.zoo import train_at_once, train_one_by_one
from lofa.backbones import Backbone, load_backbone
from lofa.zoo import LoraOptions
from tests.zoo.sets import jobs


def test_slots_train_what_peft_trains(backbone: Backbone, tiny_wan_random: Path) -> None:
    options = LoraOptions(rank=2, steps=5, batch=2, lr=2e-2, warmup=0, probe_levels=2, clip_norm=0.05)
    asked = jobs(backbone, 2)
    at_once = train_at_once(backbone, asked, options)
    one_by_one = train_one_by_one(load_backbone(tiny_wan_random), asked, options)
    assert at_once.losses == pytest.approx(one_by_one.losses, rel=1e-4)
