"""Which adapter a method gives to which prompt, and what it was made from."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.errors import ConfigError
from lofa.evaluation import (
    Base,
    Case,
    ClassLora,
    Comparison,
    Method,
    Predicted,
    Protocol,
    Recipe,
    SharedLora,
    Timing,
    make_methods,
    plan_cases,
    shuffled,
)
from lofa.predict import Predictor
from lofa.zoo import LoraJob, lora_seed, read_clips, train_loras
from tests.helpers.adapters import random_adapter

LORA = ClassLora(rank=2, steps=4, batch=4, clips_per_step=1, probe_levels=2, lr=0.1, warmup=0, validate_every=1)
SHARED = SharedLora(rank=2, steps=4, clips_per_step=2, probe_levels=1, lr=0.1, warmup=0)


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.allclose(one.delta_weight(name), other.delta_weight(name), atol=1e-6) for name in one)


def made(method: Method) -> dict[str, Adapter]:
    assert method.adapters is not None
    return dict(method.adapters)


@pytest.mark.parametrize(("prompt", "asked"), [("own", "own"), ("sibling", "sibling"), (None, "own")])
def test_a_predictor_is_asked_with_the_scored_clips_own_caption_or_with_the_anchors(
    prompt: str | None, asked: str, comparison: Comparison, predictor: Predictor
) -> None:
    method = Predicted(prompt=prompt, repeats=3).make("lofa", comparison)
    adapters = made(method)
    scored = [(case, sample) for case in comparison.cases for sample in case.score]
    assert list(adapters) == [sample.id for _, sample in scored]
    assert len(method.timing.seconds) == 3 and method.timing.median > 0 and method.by_prompt
    captions = {sample.caption for case in comparison.cases for sample in (*case.score, case.anchor)}
    known = {caption: predictor.predict(prompt=caption) for caption in captions}
    for case, sample in scored:
        expected = sample if asked == "own" else case.anchor
        found = [caption for caption, adapter in known.items() if same(adapters[sample.id], adapter)]
        assert found == [expected.caption] and method.asked[sample.id] == expected


@pytest.mark.parametrize("held_out", [0, 1])
def test_lora_is_trained_on_a_class_s_adapt_clips_less_those_that_choose_its_step(
    comparison: Comparison, world_set: Path, backbone: Backbone, cases: list[Case], held_out: int
) -> None:
    method = replace(LORA, held_out=held_out, repeats=2).make("lora", comparison)
    adapters = made(method)
    assert list(adapters) == [sample.id for case in cases for sample in case.score] and method.role == "trained"
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
        (alone,) = train_loras(backbone, [job], LORA)
        assert alone.adapter is not None
        for name in alone.adapter:
            expected = alone.adapter.delta_weight(name)
            assert expected.abs().max() > 1e-3
            for sample in case.score:
                torch.testing.assert_close(adapters[sample.id].delta_weight(name), expected, rtol=1e-2, atol=1e-4)


def test_loras_need_no_clip_that_is_scored(comparison: Comparison, cases: list[Case], tmp_path: Path) -> None:
    shutil.copytree(comparison.set_dir, tmp_path / "set")
    scored = [sample for case in cases for sample in case.score]
    for sample in scored:
        (tmp_path / "set" / "encoded" / f"{sample.id}.safetensors").unlink()
    elsewhere = replace(comparison, set_dir=tmp_path / "set")
    for recipe in (replace(LORA, held_out=1, repeats=1), SHARED):
        assert len(made(recipe.make("lora", elsewhere))) == len(scored)


def test_prompts_of_one_class_share_their_lora(comparison: Comparison) -> None:
    cases = plan_cases(comparison.samples, Protocol(prompts_per_group=2))
    adapters = made(replace(LORA, validate_every=0, repeats=1).make("lora", replace(comparison, cases=cases)))
    assert len(cases) == len(adapters) == 6
    for case in cases:
        shared = [other.group for other in cases if adapters[case.score[0].id] is adapters[other.score[0].id]]
        assert shared == [case.group] * 2


def test_the_shared_lora_is_one_trained_on_all_training_clips(comparison: Comparison, backbone: Backbone) -> None:
    method = SHARED.make("lora_shared", comparison)
    adapters = made(method)
    assert len(set(map(id, adapters.values()))) == 1 and not method.by_prompt and method.role == "trained"
    train = [sample for sample in comparison.samples if sample.split == "train"]
    assert len(train) == 4 and "on 4 training clips" in method.about and len(method.timing.seconds) == 1
    (alone,) = train_loras(backbone, [LoraJob("alone", read_clips(comparison.set_dir, train, backbone))], SHARED)
    assert alone.adapter is not None
    (adapter,) = {id(one): one for one in adapters.values()}.values()
    assert same(adapter, alone.adapter) and max(adapter.delta_weight(name).abs().max() for name in adapter) > 1e-3


@pytest.mark.parametrize(("most", "chosen"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_the_shared_lora_sees_a_limited_number_of_clips_spread_over_the_split(
    most: int, chosen: list[int], comparison: Comparison
) -> None:
    train = [sample for sample in comparison.samples if sample.split == "train"]
    assert replace(SHARED, clips=most).training_clips(comparison) == [train[place] for place in chosen]


def test_the_shared_lora_takes_clips_of_the_scored_size_alone(comparison: Comparison) -> None:
    odd = [replace(one, frames=9) if one.split == "train" else one for one in comparison.samples]
    with pytest.raises(ConfigError, match="lora_shared needs clips of the scored size in the split train"):
        make_methods(["lora_shared"], {"lora_shared": SHARED}, replace(comparison, samples=odd))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [0, 2, 4, 1, 3, 5], [5, 4, 0, 1, 2, 3]])
def test_shuffled_gives_each_clip_an_adapter_of_another_class(
    comparison: Comparison, backbone: Backbone, order: list[int]
) -> None:
    planned = plan_cases(comparison.samples, Protocol(prompts_per_group=2))
    cases = [planned[place] for place in order]
    scored = [sample for case in cases for sample in case.score]
    own = {sample.id: random_adapter(backbone.layers, rank=1, seed=seed) for seed, sample in enumerate(scored)}
    method = Method("lofa", own, Timing((1.0,)), "random")
    before = dict(own)
    mixed = shuffled(method, cases)
    given = made(mixed)
    assert mixed.name == "lofa_shuffled" and mixed.timing == method.timing and list(given) == list(own)
    assert mixed.role == "shuffled"
    for sample in scored:
        (owner,) = (other for other in scored if given[sample.id] is own[other.id])
        assert owner.group != sample.group
    assert own == before, "the method itself is left as it was"


def test_shuffling_needs_adapters_that_differ(cases: list[Case], backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="needs adapters"):
        shuffled(Method("base", None, Timing(), "nothing", "base"), cases)
    adapter = random_adapter(backbone.layers)
    one = Method("lora_shared", {sample.id: adapter for case in cases for sample in case.score}, Timing(), "random")
    with pytest.raises(ConfigError, match="differ from prompt to prompt, lora_shared has none"):
        shuffled(one, cases)


def test_methods_are_made_once_in_the_order_asked(comparison: Comparison) -> None:
    seen: list[str] = []
    recipes: dict[str, Recipe] = {"base": Base(), "lofa": Predicted(repeats=1), "unused": SHARED}
    methods = make_methods(["lofa_shuffled", "base", "lofa"], recipes, comparison, seen.append)
    assert [method.name for method in methods] == ["lofa_shuffled", "base", "lofa"] and seen == ["lofa", "base"]
    assert {id(one) for one in made(methods[0]).values()} <= {id(one) for one in made(methods[2]).values()}
    assert methods[1].adapters is None and methods[1].timing.median == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        (["base", "base"], "each once"),
        (["lorra"], "no method 'lorra'; there are: base, lofa, lora"),
        (["lofa_shuffled_shuffled"], "no method 'lofa_shuffled_shuffled'"),
        (["lora", "base_shuffled"], "base_shuffled needs adapters"),
        (["lora", "lofa"], "takes text, but task=pose_action gives pose"),
    ],
)
def test_methods_that_can_not_be_made_are_refused(names: list[str], message: str, comparison: Comparison) -> None:
    recipes: dict[str, Recipe] = {"base": Base(), "lofa": Predicted(repeats=1), "lora": replace(LORA, steps=1)}
    other = replace(comparison, task=replace(comparison.task, name="pose_action", conditions=("pose",)))
    with pytest.raises(ConfigError, match=message):
        make_methods(names, recipes, other)


def test_a_class_alone_can_not_be_shuffled(comparison: Comparison) -> None:
    one = replace(comparison, cases=comparison.cases[:1])
    with pytest.raises(ConfigError, match="lofa_shuffled needs held-out clips of at least two classes"):
        make_methods(["lofa_shuffled"], {"lofa": Predicted(repeats=1)}, one)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ClassLora(repeats=0),
        lambda: ClassLora(held_out=-1),
        lambda: SharedLora(clips=0),
        lambda: Predicted(repeats=0),
        lambda: Predicted(prompt="anchor"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: Callable[[], Recipe]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        wrong()
