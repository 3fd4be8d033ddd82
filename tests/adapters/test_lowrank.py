import pytest
import torch

from lofa.adapters import Adapter, LoraBatch, LowRank, LowRankBatch, merge_batches, stack_adapters, unstack


def pair(rank: int, out: int = 5, inner: int = 7, alpha: float = 0.3, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, inner, generator=generator), torch.randn(out, rank, generator=generator)
    return LowRank(A, B, torch.tensor(alpha))


def test_delta_weight_is_alpha_b_a() -> None:
    one = pair(3)
    assert one.delta_weight().shape == (5, 7)
    torch.testing.assert_close(one.delta_weight(), 0.3 * one.B @ one.A)
    assert torch.equal(LowRank(one.A, one.scaled_B, torch.tensor(1.0)).delta_weight(), one.delta_weight())


def test_a_number_is_taken_as_alpha() -> None:
    assert LowRank(torch.ones(1, 2), torch.ones(3, 1), 0.5).alpha.shape == ()


@pytest.mark.parametrize(
    ("A", "B", "alpha"), [((3, 7), (5, 2), ()), ((3, 7, 1), (5, 3), ()), ((3, 7), (5,), ()), ((3, 7), (5, 3), (1,))]
)
def test_shapes_that_do_not_fit_are_refused(A: tuple[int, ...], B: tuple[int, ...], alpha: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="needs A"):
        LowRank(torch.ones(A), torch.ones(B), torch.ones(alpha))


def test_a_batch_checks_its_shapes() -> None:
    with pytest.raises(ValueError, match="needs A"):
        LowRankBatch(torch.ones(2, 3, 7), torch.ones(2, 5, 3), torch.ones(3))


def spectrum(one: LowRank) -> torch.Tensor:
    return torch.linalg.svdvals(one.delta_weight().double())


@pytest.mark.parametrize("out", [3, 40])
@pytest.mark.parametrize("rank", [1, 2, 4, 9])
def test_a_reduced_pair_is_the_nearest_of_its_rank(rank: int, out: int) -> None:
    """Eckart and Young: what is missing is the rest of the singular values."""
    one = pair(6, out=out, inner=30, alpha=-0.3)
    less = one.reduced(rank)
    assert less.rank <= min(rank, 6) and less.A.dtype == one.A.dtype and torch.equal(less.alpha, one.alpha)
    missing = float((less.delta_weight() - one.delta_weight()).double().norm())
    assert missing == pytest.approx(float(spectrum(one)[rank:].norm()), abs=2e-6 * one.norm())
    assert one.norm() == pytest.approx(float(one.delta_weight().double().norm()), rel=1e-6)


def test_reducing_an_empty_pair_leaves_it_empty_and_rank_0_is_refused() -> None:
    assert not LowRank(torch.ones(3, 4), torch.ones(5, 3), 0.0).reduced(1).delta_weight().any()
    with pytest.raises(ValueError, match="at least 1"):
        pair(3).reduced(0)


def test_a_reduced_adapter_says_its_rank_and_how_far_it_is() -> None:
    whole = Adapter({"c.x": pair(4), "c.y": pair(1, seed=1)}, {"rank": "4", "prompt": "p"})
    less = whole.reduced(2)
    assert less.metadata == {"rank": "2", "prompt": "p"} and [one.rank for one in less.values()] == [2, 1]
    dense = torch.cat([(less.delta_weight(n) - whole.delta_weight(n)).flatten() for n in whole]).norm()
    own = torch.cat([whole.delta_weight(n).flatten() for n in whole]).norm()
    assert whole.distance(less) == pytest.approx(float(dense / own), rel=1e-5)


def test_distance_of_adapters() -> None:
    one = Adapter({"c.x": pair(4)})
    assert one.distance(one) < 1e-15
    assert one.distance({}) == pytest.approx(1.0)
    assert one.distance({"c.x": pair(4, alpha=0.6)}) == pytest.approx(1.0)
    assert Adapter({}).distance({}) == 0.0 and Adapter({}).distance(one) == float("inf")


def test_stacking_keeps_every_delta_weight() -> None:
    adapters = [Adapter({"c.x": pair(2), "c.y": pair(1, seed=1)}), Adapter({"c.x": pair(4, alpha=2.0, seed=2)})]
    stack = stack_adapters(adapters)
    assert stack["c.x"].A.shape == (2, 4, 7)
    for n, adapter in enumerate(adapters):
        for name in stack:
            expected = adapter.delta_weight(name) if name in adapter else torch.zeros(5, 7)
            torch.testing.assert_close(stack[name].delta_weight()[n], expected)
    for before, after in zip(adapters, unstack(stack, {"k": "v"}), strict=True):
        assert after.metadata == {"k": "v"}
        for name in before:
            torch.testing.assert_close(after.delta_weight(name), before.delta_weight(name))


def test_stacking_nothing_or_different_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no adapters"):
        stack_adapters([])
    with pytest.raises(ValueError, match="different sizes"):
        stack_adapters([Adapter({"c.x": pair(2)}), Adapter({"c.x": pair(2, out=6)})])


def test_moving_keeps_alpha_exact() -> None:
    moved = Adapter({"c.x": pair(2)}).to(dtype=torch.bfloat16)["c.x"]
    assert moved.A.dtype == moved.B.dtype == torch.bfloat16
    assert torch.equal(moved.alpha, torch.tensor(0.3))


def test_adapters_on_layers_of_one_shape_are_the_adapters_of_each_layer() -> None:
    adapters = [
        Adapter({name: pair(2, alpha=0.1 * n + 0.2, seed=n + i) for i, name in enumerate("xyz")}) for n in (3, 4)
    ]
    batch = stack_adapters(adapters)
    chosen = LoraBatch.stack(batch, ["z", "x"])
    assert chosen.A.shape == (2, 2, 2, 7) and chosen.shape == (5, 7) and chosen.layers == ("z", "x")
    other = LoraBatch.stack(batch, ["y"])
    views = merge_batches([chosen, other])
    assert list(views) == ["z", "x", "y"]
    for name, own in views.items():
        assert own.A.untyped_storage().data_ptr() in {one.A.untyped_storage().data_ptr() for one in (chosen, other)}
        for n, adapter in enumerate(adapters):
            torch.testing.assert_close(own[n].delta_weight(), adapter.delta_weight(name))
    torch.testing.assert_close(chosen.delta_weight()[1, 0], adapters[1].delta_weight("z"))
    with pytest.raises(ValueError, match=r"LoraBatch needs A \(N, L, r, in\)"):
        LoraBatch(chosen.A[0], chosen.B[0], chosen.alpha[0], ("z", "x"))
    with pytest.raises(ValueError, match="1 names for 2 layers"):
        LoraBatch(chosen.A, chosen.B, chosen.alpha, ("z",))
