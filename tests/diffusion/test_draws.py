import torch

from lofa.diffusion import FlowMatching, draw_noise, seeded_noise, stratified

PROCESS = FlowMatching(5.0)


def test_a_draw_depends_on_seed_step_and_sample_alone() -> None:
    both = draw_noise(PROCESS, ["a", "b"], (2, 3), seed=1, step=7)
    alone = draw_noise(PROCESS, ["b"], (2, 3), seed=1, step=7)
    assert torch.equal(both.noise[1:], alone.noise) and torch.equal(both.level[1:], alone.level)
    for seed, step in ((2, 7), (1, 8)):
        assert not torch.equal(draw_noise(PROCESS, ["b"], (2, 3), seed=seed, step=step).noise, alone.noise)
    assert torch.equal(both.weight, PROCESS.weight(both.level))


def test_levels_of_one_sample_are_spread_over_the_grid() -> None:
    draw = draw_noise(FlowMatching(1.0), ["a", "b"], (1,), seed=0, step=0, draws=4)
    assert ((1 - draw.level) * 4).floor().tolist() == [0, 1, 2, 3] * 2


def test_stratified_quantiles_fill_their_part() -> None:
    u = stratified(4, torch.Generator().manual_seed(0), 500)
    assert u.shape == (500, 4)
    within = u * 4 - torch.arange(4)
    assert within.min() >= 0 and within.max() < 1
    torch.testing.assert_close(within.mean(0), torch.full((4,), 0.5), atol=0.05, rtol=0)


def test_the_level_at_a_quantile_counts_from_noise() -> None:
    u = torch.tensor([[0.0, 0.4999], [0.5, 1 - 1e-7]])
    assert torch.equal(PROCESS.level_at(u), PROCESS.levels[[0, 499, 500, 999]].view(2, 2))
    assert PROCESS.level_at(torch.ones(1)) == PROCESS.levels[-1], "1 - 1e-9 is 1 in float32"


def test_one_level_a_sample_from_the_grid() -> None:
    drawn = PROCESS.draw_levels(4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000,) and torch.isin(drawn, PROCESS.levels).all()
    torch.testing.assert_close(drawn.mean(), PROCESS.levels.mean(), atol=0.02, rtol=0)
    assert torch.equal(drawn, PROCESS.draw_levels(4000, torch.Generator().manual_seed(0)))


def test_seeded_noise_of_a_row_is_fixed_and_its_own() -> None:
    rows = seeded_noise(range(4), (20, 30))
    assert torch.equal(rows[2], seeded_noise([2], (20, 30))[0])
    assert torch.corrcoef(rows.flatten(1)).fill_diagonal_(0).abs().max() < 0.2
