import pytest
import torch

from lofa.adapters import Adapter, LowRank, LowRankBatch, stack_adapters, unstack


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


@pytest.mark.parametrize("rank", [1, 2, 3, 9])
def test_reduced_is_the_best_approximation_of_that_rank(rank: int) -> None:
    one = pair(3)
    less, singular = one.reduced(rank), torch.linalg.svdvals(one.delta_weight())
    assert less.rank == min(rank, 3)
    error = (less.delta_weight() - one.delta_weight()).norm()
    torch.testing.assert_close(error, singular[rank:].norm(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(less.A @ less.A.T, torch.eye(less.rank))
