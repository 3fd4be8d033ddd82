"""Which adapter a method gives to which prompt, and what it was made from."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.data import read_samples
from lofa.errors import LofaError
from lofa.evaluation import Case, Method, Protocol, Timing, base_method, lofa_method, lora_method, plan_cases, shuffled
from lofa.predict import Predictor
from lofa.zoo import LoraJob, LoraOptions, lora_seed, read_clips, train_loras
from tests.helpers.adapters import random_adapter

OPTIONS = LoraOptions(rank=2, steps=4, batch=4, clips_per_step=1, probe_levels=2, lr=0.1, warmup=0, validate_every=1)


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.allclose(one.delta_weight(name), other.delta_weight(name), atol=1e-6) for name in one)


def made(method: Method) -> dict[str, Adapter]:
    assert method.adapters is not None
    return dict(method.adapters)


def test_lofa_is_the_predictors_adapter_for_each_anchors_caption(
    world_set: Path, predictor: Predictor, cases: list[Case]
) -> None:
    method = lofa_method(world_set, predictor, cases, repeats=3)
    adapters = made(method)
    assert list(adapters) == [case.id for case in cases]
    assert len(method.timing.seconds) == 3 and method.timing.median > 0
    asked = {case.id: predictor.predict(prompt=case.anchor.caption) for case in cases}
    for case in cases:
        assert [name for name in asked if same(adapters[case.id], asked[name])] == [case.id]


@pytest.mark.parametrize("held_out", [0, 1])
def test_lora_is_trained_on_a_class_s_adapt_clips_less_those_that_choose_its_step(
    world_set: Path, backbone: Backbone, cases: list[Case], held_out: int
) -> None:
    method = lora_method(world_set, backbone, cases, OPTIONS, held_out=held_out, repeats=2)
    adapters = made(method)
    assert list(adapters) == [case.id for case in cases]
    assert len(method.timing.seconds) == 2 and method.timing.in_batch is not None
    assert f"trained on {2 - held_out} clips" in method.about
    for case in cases:
        first, last = case.adapt
        training, kept = ([first], [last]) if held_out else ([first, last], [])
        job = LoraJob(
            "alone",
            read_clips(world_set, training, backbone),
            lora_seed(case.anchor.id),
            read_clips(world_set, kept, backbone) if kept else None,
        )
        (alone,) = train_loras(backbone, [job], OPTIONS)
        assert alone.adapter is not None
        for name in alone.adapter:
            expected = alone.adapter.delta_weight(name)
            assert expected.abs().max() > 1e-3
            torch.testing.assert_close(adapters[case.id].delta_weight(name), expected, rtol=1e-2, atol=1e-4)


def test_lora_needs_no_clip_that_is_scored(
    world_set: Path, backbone: Backbone, cases: list[Case], tmp_path: Path
) -> None:
    shutil.copytree(world_set, tmp_path / "set")
    for sample in (sample for case in cases for sample in case.score):
        (tmp_path / "set" / "encoded" / f"{sample.id}.safetensors").unlink()
    assert len(made(lora_method(tmp_path / "set", backbone, cases, OPTIONS, held_out=1, repeats=1))) == len(cases)


def test_prompts_of_one_class_share_their_lora(world_set: Path, backbone: Backbone) -> None:
    cases = plan_cases(read_samples(world_set), Protocol(prompts_per_group=2))
    adapters = made(lora_method(world_set, backbone, cases, replace(OPTIONS, validate_every=0), repeats=1))
    assert len(cases) == len(adapters) == 6
    for case in cases:
        shared = [other.group for other in cases if same(adapters[case.id], adapters[other.id])]
        assert shared == [case.group] * 2


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4, 1, 3, 5], [5, 4, 0, 1, 2, 3]])
def test_shuffled_gives_each_prompt_an_adapter_of_another_class(
    world_set: Path, backbone: Backbone, order: list[int]
) -> None:
    planned = plan_cases(read_samples(world_set), Protocol(prompts_per_group=2))
    cases = [planned[place] for place in order]
    own = {case.id: random_adapter(backbone.layers, rank=1, seed=seed) for seed, case in enumerate(cases)}
    method = Method("lofa", own, Timing((1.0,)), "random")
    before = dict(own)
    mixed = shuffled(method, cases)
    given = made(mixed)
    assert mixed.name == "lofa_shuffled" and mixed.timing == method.timing and list(given) == list(own)
    for case in cases:
        (owner,) = (other for other in cases if same(given[case.id], own[other.id]))
        assert owner.group != case.group
    assert own == before, "the method itself is left as it was"


def test_shuffling_needs_adapters_and_two_classes(cases: list[Case], backbone: Backbone) -> None:
    with pytest.raises(LofaError, match="needs adapters"):
        shuffled(base_method(), cases)
    one = Method("lora", {cases[0].id: random_adapter(backbone.layers)}, Timing(), "random")
    with pytest.raises(LofaError, match="two classes"):
        shuffled(one, cases[:1])


def test_the_base_has_no_adapters_and_costs_nothing() -> None:
    assert base_method().adapters is None and base_method().timing.median == 0
