import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import Response
from lofa.training import agreement, delta_loss, gradient_shares, response_loss, response_target
from lofa.training import tiles as tiles_file


def pairs(seed: int = 0, prompts: int = 3, layers: int = 4, out: int = 6, width: int = 5, rank: int = 2) -> LoraBatch:
    draw = torch.Generator().manual_seed(seed)
    A, B = (
        torch.randn(prompts, layers, rank, width, generator=draw),
        torch.randn(prompts, layers, out, rank, generator=draw),
    )
    return LoraBatch(A, B, torch.rand(prompts, layers, generator=draw), tuple("abcd"[:layers]))


def response(seed: int = 1) -> Response:
    p = pairs(seed)
    return Response(torch.zeros(3, 4, 2, 8), p.A.requires_grad_(), (0.1 * p.B).requires_grad_(), 0.02, 0.1, p.layers)


def test_target_is_the_relative_change_above_tau() -> None:
    delta, weight = torch.tensor([0.021, -0.021, 0.019, 1e-12, 0.0]), torch.tensor([1.0, 1.0, -1.0, 0.0, 0.0])
    assert response_target(delta, weight, 0.02).tolist() == [True, True, False, False, False]
    # where W is zero the change responds from tau eps = 2e-10 on, and the change that is tau exactly does not
    assert response_target(torch.tensor([1e-9, 1e-10]), torch.zeros(2), 0.02).tolist() == [True, False]
    assert response_target(torch.tensor([0.5, 0.51]), torch.ones(2), 0.5).tolist() == [False, True]
    big = pairs().delta_weight()
    weight = torch.randn(4, 6, 5)
    formula = big.abs() / (weight.abs() + 1e-8) > 0.02
    torch.testing.assert_close(response_target(big, weight, 0.02), formula)


def test_response_loss_is_cross_entropy_plus_size() -> None:
    said, truth, weight = response(), pairs(), torch.randn(4, 6, 5)
    entropy, penalty = response_loss([(said, weight, truth)], penalty=1e-2)
    target = response_target(truth.delta_weight(), weight, said.tau).float()
    probability = said.probability()
    expected = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    torch.testing.assert_close(entropy, expected)
    torch.testing.assert_close(penalty, 1e-2 * (said.A.square().mean() + said.B.square().mean()))


def test_delta_loss_counts_alpha_and_is_one_for_no_change() -> None:
    truth = pairs()
    assert delta_loss([(truth, truth)]).tolist() == [0, 0, 0]
    silent = replace(truth, alpha=torch.zeros_like(truth.alpha))
    torch.testing.assert_close(delta_loss([(silent, truth)]), torch.ones(3))
    halved = replace(truth, alpha=truth.alpha / 2)
    torch.testing.assert_close(delta_loss([(halved, truth)]), torch.full((3,), 0.5))


def test_delta_loss_of_an_empty_truth_is_the_mean_change_over_the_floor() -> None:
    """Over layers of two shapes: the mean goes over the entries of both."""
    parts = [(pairs(seed, out=out), pairs(seed + 5, out=out)) for seed, out in ((0, 6), (1, 9))]
    silent = [(one, replace(other, B=0 * other.B)) for one, other in parts]
    changes = torch.cat([one.delta_weight().flatten(1) for one, _ in parts], 1).abs()
    torch.testing.assert_close(delta_loss(silent, floor=1e-3), changes.mean(1) / 1e-3)
    torch.testing.assert_close(delta_loss(silent), changes.mean(1) / 1e-6)


def test_first_gradients_stay_above_the_epsilon_of_adam() -> None:
    truth = pairs()
    B = torch.zeros_like(truth.B).requires_grad_()
    start = replace(truth, A=truth.A.flip(0), B=B, alpha=torch.full((3, 4), 1e-3))
    truth.B.mul_(1e-4)
    delta_loss([(start, truth)]).mean().backward()
    assert start.B.grad is not None and start.B.grad.abs().max() > 1e-5


def doubled(pairs: LoraBatch) -> LoraBatch:
    A, B, alpha = (value.double().requires_grad_() for value in (pairs.A, pairs.B, pairs.alpha))
    return LoraBatch(A, B, alpha, pairs.layers)


def dense_losses(said: Response, predicted: LoraBatch, truth: LoraBatch, weight: Tensor) -> list[Tensor]:
    """The formulas as they stand in the docstring, over whole matrices."""
    target = (truth.delta_weight().abs() / (weight.abs() + 1e-8) > said.tau).double()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(said.logits(), target)
    size = said.A.square().mean() + said.B.square().mean()
    distance = (predicted.delta_weight() - truth.delta_weight()).abs().mean((1, 2, 3))
    return [entropy + 1e-2 * size, *(distance / truth.delta_weight().abs().mean((1, 2, 3)))]


@pytest.mark.parametrize("entries", [1, 90, 200, 10**6], ids=["a row", "rows", "layers", "all"])
def test_tile_by_tile_is_the_dense_formula_in_value_and_gradient(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_file, "_LEAST", entries)
    monkeypatch.setattr(tiles_file, "_MOST", entries)
    weight, truth, predicted = torch.randn(4, 6, 5).double(), doubled(pairs()), doubled(pairs(2))
    other = doubled(pairs(1))
    said = Response(torch.zeros(3, 4, 2, 8), other.A, other.B, 0.02, 0.1, other.layers)
    tiled = [torch.stack(response_loss([(said, weight, truth)], 1e-2)).sum(), *delta_loss([(predicted, truth)])]
    dense = dense_losses(said, predicted, truth, weight)
    inputs = [said.A, said.B, predicted.A, predicted.B, predicted.alpha]
    pull = torch.tensor([1.0, 0.3, -2.0, 5.0]).double()
    for value, expected in [
        (torch.stack(tiled), torch.stack(dense)),
        *zip(*(torch.autograd.grad(torch.stack(losses) @ pull, inputs) for losses in (tiled, dense)), strict=True),
    ]:
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


def test_tiles_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for least, shape in itertools.product([1, 7, 60, 500, 10**5], [(1, 1, 7, 3), (2, 5, 4, 6), (3, 2, 16, 2)]):
        monkeypatch.setattr(tiles_file, "_LEAST", least)
        seen = torch.zeros(shape[1:3])
        for tile in tiles_file.tiles_of(*shape):
            seen[tile.layers, tile.rows] += 1
        assert bool((seen == 1).all()), (least, shape)


def test_gradient_shares_sum_to_one_and_follow_the_norms() -> None:
    x, y = torch.randn(4, requires_grad=True), torch.randn(3, requires_grad=True)

    def pull(strength: float) -> Tensor:
        return strength * (x.square().sum() + y.sum())

    torch.testing.assert_close(gradient_shares([pull(3), pull(1)], [x, y]), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(gradient_shares([pull(0), pull(0)], [x, y]), torch.tensor([0.5, 0.5]))
    shares = gradient_shares([pull(0.1), x.sin().sum() + y.square().sum(), pull(2)], [x, y])
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))


def as_response(probability: Tensor) -> Response:
    """A response of maps (P, L, out, in); 0 and 1 are exact."""
    S = 0.02 + 0.1 * probability.logit().clamp(-1e4, 1e4)
    return Response(S, eye_like(S), S, 0.02, 0.1, tuple("abcd"[: S.shape[1]]))


def implying(true: Tensor) -> tuple[list[Tensor], LoraBatch]:
    """W (out, in) of L layers, and adapters whose maps are `true` (P, L, out, in)."""
    pairs = LoraBatch(eye_like(true), true.float(), torch.ones(true.shape[:2]), tuple("abcd"[: true.shape[1]]))
    return list(torch.ones(true.shape[1:])), pairs


def eye_like(maps: Tensor) -> Tensor:
    return torch.eye(maps.shape[3]).expand(*maps.shape[:2], -1, -1)


def test_agreement_of_a_map_with_itself_is_one_and_with_its_opposite_zero() -> None:
    true = torch.rand(3, 4, 6, 5) > 0.7
    weights, pairs = implying(true)
    for itself in (as_response(true.float()), pairs):
        same = agreement([(itself, weights, pairs)], tau=0.02)
        assert (same["precision"], same["recall"]) == (1, 1)
        torch.testing.assert_close(same["cosine"], torch.tensor(1.0))
        torch.testing.assert_close(same["density"], true.float().mean())
    opposite = agreement([(as_response((~true).float()), weights, pairs)], tau=0.02)
    assert (opposite["precision"], opposite["recall"], opposite["cosine"]) == (0, 0, 0)
    constant = agreement([(as_response(torch.ones(true.shape)), weights, pairs)], tau=0.02)
    torch.testing.assert_close(constant["cosine"], true.float().mean((1, 2, 3)).sqrt().mean())


def test_agreement_is_counted_as_in_a_table_of_all_entries() -> None:
    """Two stacks of different shapes, probabilities on either side of a half, prompts of very different density."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 2, 6, 5), (3, 1, 4, 9)]
    said = [torch.rand(shape, generator=generator) for shape in shapes]
    share = torch.tensor([0.05, 0.4, 0.9])[:, None, None, None]
    true = [torch.rand(shape, generator=generator) < share for shape in shapes]
    parts = [(as_response(p), *implying(t)) for p, t in zip(said, true, strict=True)]
    found = agreement(parts, tau=0.02)
    p, t = (torch.cat([part.flatten(1) for part in parts], 1).double() for parts in (said, true))
    both = ((p > 0.5) & (t == 1)).sum()
    expected = {
        "precision": both / (p > 0.5).sum(),
        "recall": both / t.sum(),
        "cosine": torch.nn.functional.cosine_similarity(p, t).mean(),
        "density": t.mean(),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )
