import pytest
import torch

from lofa.diffusion import FlowMatching
from lofa.zoo.stream import DrawStream

PROCESS = FlowMatching(5.0)
CPU = torch.device("cpu")


def stream(seeds: list[int], counts: list[int], width: int = 3) -> DrawStream:
    return DrawStream(seeds, counts, width, (2, 1, 4, 4), PROCESS, CPU)


def test_a_lora_draws_the_same_in_any_company() -> None:
    alone, together = stream([7], [4]), stream([3, 7, 9], [1, 4, 2])
    for _ in range(130):  # more than a block of steps
        a, b = alone.next(), together.next()
        assert torch.equal(a.noise[0], b.noise[1])
        assert torch.equal(a.levels[0], b.levels[1])
        assert torch.equal(a.clips[0], b.clips[1])


def test_a_lora_draws_the_same_after_others_have_gone() -> None:
    alone, together = stream([7], [4]), stream([3, 7], [1, 4])
    for step in range(130):
        a, b = alone.next(), together.next()
        assert torch.equal(a.noise[0], b.noise[-1])
        if step == 70:
            together.keep(torch.tensor([False, True]))
    assert len(b.noise) == 1


def test_clips_of_a_step_differ_where_there_are_enough() -> None:
    draws = [stream([0, 1], [5, 2]).next().clips for _ in range(5)]
    for clips in draws:
        assert len(set(clips[0].tolist())) == 3 and clips[0].max() < 5
        assert set(clips[1].tolist()) == {0, 1}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_clip_has_its_turn_as_often(count: int) -> None:
    source, width = stream([0], [count], width=6), 6
    seen = torch.cat([source.next().clips[0] for _ in range(200)])
    often = torch.bincount(seen, minlength=count)
    assert len(often) == count and (often - 200 * width / count).abs().max() <= 200 * (width % count) / 8
    rounds = [set(source.next().clips[0, :count].tolist()) for _ in range(20)]
    assert rounds == [set(range(count))] * 20, "none again before all had their turn"


def test_levels_are_of_the_grid_one_in_each_part() -> None:
    source = stream([0], [1], width=4)
    for _ in range(20):
        index = (source.next().levels[0][:, None] - PROCESS.levels).abs().argmin(1)
        assert torch.equal(index // 250, torch.arange(4))
