import pytest

from lofa.errors import DataError
from lofa.zoo import ZooOptions, plan_zoo
from tests.zoo.sets import sample

SAMPLES = [
    *(sample(f"a{i}", "train", "a", "score" if i == 5 else "adapt") for i in range(6)),
    sample("b0", "train", "b"),
    sample("v0", "val", "a"),
    sample("t0", "test", "c"),
]


def ids(options: ZooOptions) -> list[tuple[list[str], list[str]]]:
    return [([s.id for s in plan.clips], [s.id for s in plan.held_out]) for plan in plan_zoo(SAMPLES, options)]


def test_a_group_trains_on_its_own_split_and_not_on_what_is_scored() -> None:
    assert ids(ZooOptions()) == [(["a0", "a1", "a2", "a3", "a4"], []), (["b0"], []), (["v0"], [])]
    assert ids(ZooOptions(splits=("test",))) == [(["t0"], [])]


def test_siblings_follow_the_anchor_and_held_out_clips_are_apart() -> None:
    plans = ids(ZooOptions(splits=("train",), per_group=2, siblings=3, held_out=1, validate_every=1))
    assert plans == [(["a0", "a1", "a2"], ["a4"]), (["a1", "a2", "a3"], ["a0"]), (["b0"], [])]
    assert len(ids(ZooOptions(splits=("train",), per_group=0, siblings=1))) == 6


def test_a_small_group_keeps_half_of_its_siblings_to_train_on() -> None:
    assert ids(ZooOptions(splits=("train",), held_out=9, validate_every=1))[0] == (["a0", "a1", "a2"], ["a3", "a4"])


def test_nothing_to_train_on_says_what_there_is() -> None:
    with pytest.raises(DataError, match=r"splits=vall .*train 7, val 1, test 1"):
        plan_zoo(SAMPLES, ZooOptions(splits=("vall",)))
