"""Which clips adaptation sees and which are scored."""

import pytest

from lofa.data import Sample
from lofa.errors import ConfigError, DataError
from lofa.evaluation import Protocol, plan_cases


def samples(groups: int = 3, adapt: int = 2, score: int = 4, split: str = "test") -> list[Sample]:
    return [
        Sample(
            f"{group}-{role}-{i}", "a figure", split, f"class{group}", role, "world", 17, (64, 64), 8.0, i, ("latents",)
        )
        for group in range(groups)
        for role, count in (("adapt", adapt), ("score", score))
        for i in range(count)
    ]


def test_a_case_never_scores_what_adaptation_sees() -> None:
    cases = plan_cases(samples(), Protocol())
    assert len(cases) == 3
    for case in cases:
        assert case.anchor in case.adapt and len(case.score) == 4
        assert {one.group for one in (*case.adapt, *case.score)} == {case.group}
        assert not set(case.adapt) & set(case.score)


def test_prompts_of_one_class_share_its_clips_out() -> None:
    cases = plan_cases(samples(adapt=3, score=5), Protocol(prompts_per_group=2))
    assert len(cases) == 6 and len({case.anchor.id for case in cases}) == 6
    first, second = cases[:2]
    assert first.group == second.group and not set(first.score) & set(second.score)
    assert len(first.score) + len(second.score) == 5


def test_numbers_are_limited_as_asked() -> None:
    cases = plan_cases(samples(), Protocol(groups=2, clips_per_prompt=3))
    assert [len(case.score) for case in cases] == [3, 3]


@pytest.mark.parametrize("wrong", [samples(split="val"), samples(score=0), samples(groups=1)])
def test_too_little_to_compare_is_an_error_that_says_what_there_is(wrong: list[Sample]) -> None:
    with pytest.raises(DataError, match="split=test.*samples by split"):
        plan_cases(wrong, Protocol())


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="split=tset"):
        Protocol(split="tset")
    with pytest.raises(ConfigError, match="draws=0"):
        Protocol(draws=0)
