"""The losses of both stages, as formulas over tensors. P prompts, L layers of one shape (out, in).

    delta_w = alpha * B @ A                               the truth, from the LoRA zoo
    R       = [ |delta_w| / (|W| + eps) > tau ]           response map, eps 1e-8
    I       BCE-with-logits((S - tau) / T, R) + penalty (mean A^2 + mean B^2)
    II      c_delta * |delta_w' - delta_w|_1 / |delta_w|_1  +  c_denoise * E[ w(t) |v' - (n - x_0)|^2 ]

delta_w' holds alpha, as the backbone does when it carries the prediction, so both terms of II pull the same way. A
plain mean over (L, out, in) would give the heads first gradients of 1e-10 while alpha is still small, below Adam's eps
and so lost; hence the L1 term is measured in units of the truth's own size: predicting nothing costs exactly 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lofa.adapters import LowRankBatch
from lofa.hypernets import Response

__all__ = [
    "Pairs",
    "delta_loss",
    "delta_weights",
    "gradient_shares",
    "part_of",
    "response_loss",
    "response_target",
    "sum_over_layers",
]


class Pairs(Protocol):
    """Low-rank pairs of P prompts on L layers: A (P, L, r, in), B (P, L, out, r), alpha (P, L)."""

    @property
    def A(self) -> Tensor: ...
    @property
    def B(self) -> Tensor: ...
    @property
    def alpha(self) -> Tensor: ...


CHUNK_ELEMENTS = 2**27
"""Matrix elements (P * layers * out * in) that one step of `sum_over_layers` may hold at once; 0.5 GB in float32."""


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


def delta_weights(pairs: Pairs, part: slice = slice(None)) -> Tensor:
    """delta_w (P, L, out, in) in float32 of the pairs, or of a slice of their layers."""
    A, B, alpha = (value[:, part].float() for value in (pairs.A, pairs.B, pairs.alpha))
    return LowRankBatch(A.flatten(0, 1), B.flatten(0, 1), alpha.flatten()).delta_weight().unflatten(0, alpha.shape)


def sum_over_layers(function: Callable[[slice], Tensor], layers: int, elements: int) -> Tensor:
    """`function(slice(0, layers))` for a function that sums over the layers it is given, in bounded memory.

    Full matrices of many layers and prompts don't fit at once at the size of a real backbone; then the layers are
    walked in slices, each recomputed in backward.

    Args:
        function: slice of the layer axis -> a tensor that adds up over slices
        layers: L
        elements: matrix elements of one layer over all prompts, P * out * in
    """
    step = max(1, CHUNK_ELEMENTS // elements)
    if step >= layers:
        return function(slice(0, layers))
    slices = (slice(start, min(start + step, layers)) for start in range(0, layers, step))
    return torch.stack([checkpoint(function, part, use_reentrant=False) for part in slices]).sum(0)


def response_loss(response: Response, weight: Tensor, truth: Pairs, penalty: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Stage I: binary cross-entropy against the response map, and the size penalty on A and B.

    Args:
        response: the prediction for (P, L)
        weight: (L, out, in) W
        truth: the true adapters
        penalty: of mean A^2 + mean B^2

    Returns:
        cross-entropy (); penalty term (), already weighted; the loss is their sum
    """
    prompts, layers = response.A.shape[:2]
    elements = weight[0].numel()

    def cross_entropy(part: slice) -> Tensor:
        target = response_target(delta_weights(truth, part), weight[part].float(), response.tau)
        return F.binary_cross_entropy_with_logits(part_of(response, part).logits(), target.float(), reduction="sum")

    total = sum_over_layers(cross_entropy, layers, prompts * elements)
    size = response.A.float().square().mean() + response.B.float().square().mean()
    return total / (prompts * layers * elements), penalty * size


def part_of(response: Response, part: slice) -> Response:
    """The response on a slice of the layers, in float32."""
    A, B = response.A[:, part].float(), response.B[:, part].float()
    return replace(response, tokens=response.tokens[:, part], A=A, B=B)


def delta_loss(prediction: Pairs, truth: Pairs, floor: float = 1e-6) -> Tensor:
    """Stage II: L1 distance of the delta weights, in units of the mean |delta_w| of each prompt's true adapter.

    Args:
        prediction: for (P, L)
        truth: for (P, L)
        floor: smallest mean |delta_w| to divide by, for adapters that are next to nothing

    Returns:
        (P,); 0 for a perfect prediction, 1 for predicting no change
    """
    prompts, layers = truth.alpha.shape
    elements = truth.B.shape[2] * truth.A.shape[3]

    def sums(part: slice) -> Tensor:
        true = delta_weights(truth, part)
        return torch.stack([(delta_weights(prediction, part) - true).abs().sum((1, 2, 3)), true.abs().sum((1, 2, 3))])

    distance, size = sum_over_layers(sums, layers, prompts * elements)
    return distance / size.clamp_min(floor * layers * elements)


def gradient_shares(losses: list[Tensor], tensors: list[Tensor]) -> Tensor:
    """How much of the pull on `tensors` comes from each loss: norms of the gradients, scaled to sum 1.

    Args:
        losses: n scalars () with graphs of their own
        tensors: what they are differentiated by

    Returns:
        (n,), all 1/n where no loss pulls at all
    """
    gradients = [torch.autograd.grad(loss, tensors) for loss in losses]
    stacked = torch.stack([torch.nn.utils.get_total_norm(per_loss) for per_loss in gradients])
    total = stacked.sum()
    return torch.where(total > 0, stacked / total.clamp_min(torch.finfo(total.dtype).tiny), 1 / len(losses))
