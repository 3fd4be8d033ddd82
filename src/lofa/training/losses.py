"""The losses of both stages, as formulas over tensors. P prompts, L layers (out, in) of each shape.

    delta_w = alpha * B @ A                               the truth, from the LoRA zoo
    R       = [ |delta_w| / (|W| + eps) > tau ]           response map, eps 1e-8
    I       BCE-with-logits((S - tau) / T, R) + penalty (mean A^2 + mean B^2)
    II      c_delta * |delta_w' - delta_w|_1 / |delta_w|_1  +  c_denoise * E[ w(t) |v' - (n - x_0)|^2 ]

delta_w' holds alpha, as the backbone does when it carries the prediction, so both terms of II want the same. A plain
mean over (L, out, in) would give the heads first gradients of 1e-10 while alpha is still small, below Adam's eps
and so lost; hence the L1 term is measured in units of the truth's own size: predicting nothing costs exactly 1.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lofa.adapters import LoraBatch
from lofa.hypernets import Response
from lofa.hypernets.heads import upcast
from lofa.training.tiles import Tile, low_rank_sum

__all__ = ["delta_loss", "folded", "gradient_shares", "response_loss", "response_target"]


def response_target(delta_w: Tensor, weight: Tensor, tau: float, eps: float = 1e-8) -> Tensor:
    """Response map R = |delta_w| / (|W| + eps) > tau.

    Args:
        delta_w: (..., out, in)
        weight: (..., out, in) W, broadcast against `delta_w`
        tau: the relative change from which on an element responds

    Returns:
        (..., out, in) bool
    """
    return delta_w.abs() > tau * (weight.abs() + eps)


def folded(pairs: LoraBatch) -> tuple[Tensor, Tensor]:
    """alpha * B (P, L, out, r) and A (P, L, r, in), in float32 or wider: their product is delta_w."""
    return upcast(pairs.alpha)[..., None, None] * upcast(pairs.B), upcast(pairs.A)


def response_loss(
    parts: Iterable[tuple[Response, Sequence[Tensor], LoraBatch]], penalty: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Stage I: binary cross-entropy against the response map, and the size penalty on A and B.

    Args:
        parts: for the layers of each shape: the prediction for (P, L), the L matrices W (out, in), and the
            true adapters
        penalty: of mean A^2 + mean B^2

    Returns:
        cross-entropy (), mean over all entries of all layers; weighted penalty (); the loss is their sum
    """
    parts = list(parts)
    entropy = torch.stack([_cross_entropy(*part) for part in parts]).sum()
    entries = sum(truth.alpha.numel() * math.prod(truth.shape) for _, _, truth in parts)
    A, B = ([getattr(response, factor) for response, _, _ in parts] for factor in "AB")
    return entropy / entries, penalty * (_mean_square(A) + _mean_square(B))


def _mean_square(factors: Sequence[Tensor]) -> Tensor:
    squares = torch.stack([upcast(factor).square().sum() for factor in factors])
    return squares.sum() / sum(factor.numel() for factor in factors)


def _cross_entropy(response: Response, weights: Sequence[Tensor], truth: LoraBatch) -> Tensor:
    true = folded(truth)

    def cross_entropy(product: Tensor, tile: Tile) -> tuple[Tensor, Tensor, None]:
        S, slope = response.activate(product)
        logits = S.sub_(response.tau).div_(response.temperature)
        target = response_target(tile.product(*true), upcast(tile.of(weights)), response.tau).to(S.dtype)
        value = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2, 3))
        derivative = logits.sigmoid_().sub_(target).div_(response.temperature)
        return value, derivative if slope is None else derivative.mul_(slope), None

    return low_rank_sum(response.B, response.A, cross_entropy)[0].sum()


def delta_loss(parts: Iterable[tuple[LoraBatch, LoraBatch]], floor: float = 1e-6) -> Tensor:
    """Stage II: L1 distance of the delta weights, in units of the mean |delta_w| of each prompt's true adapter.

    Args:
        parts: for the layers of each shape: prediction and truth for (P, L)
        floor: smallest mean |delta_w| to divide by, for adapters that are next to nothing

    Returns:
        (P,); 0 for a perfect prediction, 1 for predicting no change
    """
    parts = list(parts)
    distance, size = (torch.stack(sums).sum(0) for sums in zip(*(_distance(*part) for part in parts), strict=True))
    entries = sum(len(truth.layers) * math.prod(truth.shape) for _, truth in parts)
    return distance / size.clamp_min(floor * entries)


def _distance(prediction: LoraBatch, truth: LoraBatch) -> tuple[Tensor, Tensor]:
    """Sums of |delta_w' - delta_w| and of |delta_w|, (P,) both."""
    true = folded(truth)

    def distance(delta: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        wanted = tile.product(*true)
        size = wanted.abs().sum((1, 2, 3))
        error = delta.sub_(wanted)
        return error.abs().sum((1, 2, 3)), error.sign(), size

    return low_rank_sum(*folded(prediction), distance)


def gradient_shares(losses: list[Tensor], tensors: list[Tensor]) -> Tensor:
    """How much of the gradient by `tensors` comes from each loss: norms of the gradients, scaled to sum 1.

    Args:
        losses: n scalars () with graphs of their own
        tensors: what they are differentiated by

    Returns:
        (n,), all 1/n where no loss has a gradient
    """
    gradients = [torch.autograd.grad(loss, tensors) for loss in losses]
    stacked = torch.stack([torch.nn.utils.get_total_norm(per_loss) for per_loss in gradients])
    total = stacked.sum()
    return torch.where(total > 0, stacked / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / len(losses))
