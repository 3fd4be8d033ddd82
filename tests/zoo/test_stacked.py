import copy

import pytest
import torch

from lofa.adapters import LowRank
from lofa.backbones import LayerSpec
from lofa.zoo.stacked import StackedLoras

LAYERS = [LayerSpec("t.a", 0, "a", 6, 4), LayerSpec("t.b", 0, "b", 3, 8)]
CPU = torch.device("cpu")


def loras(seeds: list[int]) -> StackedLoras:
    stacked = StackedLoras(LAYERS, seeds, rank=2, alpha=0.5, device=CPU)
    with torch.no_grad():
        stacked.flat += torch.randn(stacked.flat.shape, generator=torch.Generator().manual_seed(1))
    return stacked


def test_starts_at_no_update_with_a_of_the_seed() -> None:
    stacked = StackedLoras(LAYERS, [1, 2, 1], rank=2, alpha=1.0, device=CPU)
    for batch, layer in zip(stacked.adapters().values(), LAYERS, strict=True):
        assert batch.A.shape == (3, 2, layer.in_features) and batch.B.shape == (3, layer.out_features, 2)
        assert batch.A.abs().max() <= layer.in_features**-0.5 and not batch.B.any()
        assert torch.equal(batch.A[0], batch.A[2]) and not torch.equal(batch.A[0], batch.A[1])


def test_adapters_of_a_row_are_that_row() -> None:
    stacked = loras([0, 1, 2])
    alone = stacked.unstack(stacked.flat[1:2])[0]
    for name, batch in stacked.adapters().items():
        torch.testing.assert_close(alone.delta_weight(name), batch.delta_weight()[1].detach())
        torch.testing.assert_close(alone.delta_weight(name), 0.5 * (batch.B[1] @ batch.A[1]).detach())


def test_each_gradient_is_clipped_as_on_its_own() -> None:
    stacked = loras([0, 1, 2])
    gradient = torch.randn_like(stacked.flat) * torch.tensor([[0.01], [1.0], [100.0]])
    stacked.flat.grad = gradient.clone()
    stacked.clip_gradients(1.0)
    for row, expected in enumerate(gradient):
        alone = torch.nn.Parameter(torch.zeros_like(expected))
        alone.grad = expected.clone()
        torch.nn.utils.clip_grad_norm_([alone], 1.0)
        torch.testing.assert_close(stacked.flat.grad[row], alone.grad)


def test_those_kept_go_on_as_if_the_others_were_there() -> None:
    stacked = loras([0, 1, 2])
    other = copy.deepcopy(stacked)
    mask = torch.tensor([True, False, True])
    optimizers = [torch.optim.AdamW([each.flat], lr=0.1, fused=True) for each in (stacked, other)]
    for step in range(4):
        if step == 2:
            other.keep(mask, optimizers[1])
        for each, optimizer in zip((stacked, other), optimizers, strict=True):
            (each.flat**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert len(other.flat) == 2
    torch.testing.assert_close(other.flat, stacked.flat[mask])


@pytest.mark.parametrize(("rank", "error"), [(4, 0.0), (3, 0.0), (1, None)])
def test_starts_at_the_adapter_given_as_nearly_as_the_rank_allows(rank: int, error: float | None) -> None:
    generator = torch.Generator().manual_seed(5)
    B, A = torch.randn(6, 3, generator=generator), torch.randn(3, 4, generator=generator)
    start = {"t.a": LowRank(A, B, torch.tensor(0.2))}
    stacked = StackedLoras(LAYERS, [1, 1], rank, 0.5, CPU, [None, start])
    fresh = StackedLoras(LAYERS, [1], rank, 0.5, CPU)
    wanted = start["t.a"].delta_weight()
    least = torch.linalg.svdvals(wanted)[rank:].norm() if error is None else error
    adapters = stacked.adapters()
    torch.testing.assert_close((adapters["t.a"].delta_weight()[1] - wanted).norm(), torch.as_tensor(least))
    assert not adapters["t.a"].delta_weight()[0].any() and not adapters["t.b"].delta_weight().any()
    assert torch.equal(stacked.flat[0], fresh.flat[0])
    assert torch.equal(adapters["t.b"].A[1], fresh.adapters()["t.b"].A[0])
