"""The methods hand every case its adapter and say how long one takes."""

from pathlib import Path

import pytest
import torch

from lofa.backbones import Backbone
from lofa.errors import LofaError
from lofa.evaluation import Case, base_method, lofa_method, lora_method, shuffled
from lofa.predict import Predictor
from lofa.zoo import LoraOptions

OPTIONS = LoraOptions(rank=2, steps=3, batch=4, clips_per_step=1, probe_levels=2)


def test_lofa_is_the_predictors_adapter_for_the_anchors_caption(
    world_set: Path, predictor: Predictor, cases: list[Case]
) -> None:
    method = lofa_method(world_set, predictor, cases, repeats=3)
    assert method.adapters is not None and set(method.adapters) == {case.id for case in cases}
    assert len(method.timing.seconds) == 3 and method.timing.median > 0
    alone, ours = predictor.predict(prompt=cases[1].anchor.caption), method.adapters[cases[1].id]
    for name in alone:
        assert torch.allclose(ours.delta_weight(name), alone.delta_weight(name), atol=1e-6)


def test_lora_trains_one_adapter_a_class_on_its_adapt_clips(
    world_set: Path, backbone: Backbone, cases: list[Case]
) -> None:
    method = lora_method(world_set, backbone, cases, OPTIONS, repeats=2)
    assert method.adapters is not None and set(method.adapters) == {case.id for case in cases}
    assert len(method.timing.seconds) == 2 and method.timing.in_batch is not None
    first, second = (method.adapters[case.id] for case in cases[:2])
    name = next(iter(first))
    assert first.delta_weight(name).abs().max() > 0
    assert not torch.equal(first.delta_weight(name), second.delta_weight(name))


def test_shuffled_gives_each_case_an_adapter_of_another_class(
    world_set: Path, predictor: Predictor, cases: list[Case]
) -> None:
    method = lofa_method(world_set, predictor, cases, repeats=1)
    mixed = shuffled(method, cases)
    assert mixed.name == "lofa_shuffled" and mixed.adapters is not None and method.adapters is not None
    assert all(mixed.adapters[case.id] is not method.adapters[case.id] for case in cases)
    with pytest.raises(LofaError, match="needs adapters"):
        shuffled(base_method(), cases)
