"""Laws of the Fréchet distance."""

import pytest
import torch

from lofa.metrics import FrechetVideoDistance, frechet_distance, frechet_of_features


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.mean(0), torch.cov(features.T)


def test_equals_the_closed_form_for_diagonal_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    mu1, mu2, s1, s2 = torch.rand(4, 12, dtype=torch.float64, generator=generator)
    expected = (mu1 - mu2).square().sum() + (s1.sqrt() - s2.sqrt()).square().sum()
    assert frechet_distance(mu1, s1.diag(), mu2, s2.diag()) == pytest.approx(float(expected), rel=1e-10)


def test_equals_the_square_root_form_for_full_covariances() -> None:
    features = torch.randn(2, 200, 8, dtype=torch.float64) @ torch.randn(2, 8, 8, dtype=torch.float64)
    (mu1, s1), (mu2, s2) = (gaussian(rows) for rows in features)
    trace = torch.linalg.eigvals(s1 @ s2).real.clamp(min=0).sqrt().sum()
    expected = (mu1 - mu2).square().sum() + s1.trace() + s2.trace() - 2 * trace
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("rows", [5, 40])
def test_of_features_agrees_with_moments_also_where_covariances_are_singular(rows: int) -> None:
    first, second = torch.randn(rows, 16), torch.randn(rows + 2, 16) + 1
    moments = frechet_distance(*gaussian(first.double()), *gaussian(second.double()))
    assert float(frechet_of_features(first, second)) == pytest.approx(moments, rel=1e-7)


def test_is_symmetric_and_zero_on_itself_and_batched() -> None:
    first, second = torch.randn(3, 30, 6), torch.randn(3, 30, 6)
    batched = frechet_of_features(first, second)
    assert torch.allclose(batched, frechet_of_features(second, first))
    assert torch.allclose(
        batched, torch.stack([frechet_of_features(*pair) for pair in zip(first, second, strict=True)])
    )
    assert frechet_of_features(first, first).abs().max() < 1e-10


def test_is_never_negative_where_rounding_would_make_it_so() -> None:
    features = 100 * torch.randn(200, 12, 6, generator=torch.Generator().manual_seed(0))
    again = features.flip(1)  # the same clips in another order
    assert (frechet_of_features(features, again) >= 0).all()


def test_metric_does_not_depend_on_the_batch_split() -> None:
    def features(clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((1, 2)).flatten(1)

    generated, real = torch.randint(0, 256, (2, 8, 3, 4, 4, 3), dtype=torch.uint8)
    whole, parts = FrechetVideoDistance(features), FrechetVideoDistance(features)
    whole.update(generated, real=real)
    for start in (0, 3):
        rows = slice(start, 3 if start == 0 else 8)
        parts.update(generated[rows], real=real[rows])
    assert torch.equal(whole.compute(), parts.compute())
    assert whole.compute() == frechet_of_features(features(generated), features(real))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="two clips"):
        frechet_of_features(torch.randn(1, 4), torch.randn(5, 4))
    with pytest.raises(ValueError, match="covariances"):
        frechet_distance(torch.zeros(3), torch.eye(4), torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(torch.full((3,), torch.nan), torch.eye(3), torch.zeros(3), torch.eye(3))
