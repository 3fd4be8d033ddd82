"""N LoRAs as one tensor.

All A and B of one LoRA lie behind one another in a row of `flat` (N, P); every layer's (N, r, in) and (N, out, r) are
views of it. So the optimiser has one parameter, a gradient norm a LoRA is one reduction, and keeping the best step of
some LoRAs is one masked copy: nothing loops over LoRAs, and what loops over layers only makes views.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRank, LowRankBatch, unstack
from lofa.backbones import LayerSpec

__all__ = ["StackedLoras"]


class StackedLoras:
    """N LoRAs of the given layers, A initialised as PEFT does (uniform within 1/sqrt(in)), B zero, or an adapter.

    Args:
        layers: L layers, all adapted with the same rank.
        seeds: N seeds, one a LoRA; equal seeds give equal A.
        rank: r.
        alpha: multiplier of B @ A, the same for all.
        device: where `flat` lies; it is float32, the draw is made on the CPU.
        starts: N adapters to start from, None for those that start fresh. Of a higher rank than r the best
            approximation is taken; what a lower one leaves free starts fresh.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        seeds: Sequence[int],
        rank: int,
        alpha: float,
        device: torch.device,
        starts: Sequence[Mapping[str, LowRank] | None] = (),
    ) -> None:
        self.layers, self.rank, self.alpha = tuple(layers), rank, alpha
        self.sizes = [size for layer in self.layers for size in (rank * layer.in_features, layer.out_features * rank)]
        drawn = {seed: self._draw(seed) for seed in set(seeds)}
        flat = torch.stack([drawn[seed] for seed in seeds])
        for row, start in zip(flat, starts or [None] * len(seeds), strict=True):
            if start is not None:
                self._put(row, start)
        self.flat = nn.Parameter(flat.to(device))

    def _draw(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        pieces = []
        for layer in self.layers:
            bound = 1 / math.sqrt(layer.in_features)
            A = torch.empty(self.rank * layer.in_features).uniform_(-bound, bound, generator=generator)
            pieces += [A, torch.zeros(layer.out_features * self.rank)]
        return torch.cat(pieces)

    def _put(self, row: Tensor, start: Mapping[str, LowRank]) -> None:
        """Writes an adapter over the leading ranks of a fresh row (P,).

        Each row of A gets the length that fresh ones have, and B the rest, so that it learns as fast as a fresh one.
        """
        for name, into in self.view(row[None]).items():
            if name in start:
                pair = start[name].reduced(min(self.rank, start[name].rank))
                there = pair.A.norm(dim=1).nonzero().flatten()
                scale = 1 / (math.sqrt(3) * pair.A[there].norm(dim=1))
                into.A[0, there] = scale[:, None] * pair.A[there]
                into.B[0, :, there] = pair.scaled_B[:, there] / (scale * self.alpha)

    def adapters(self) -> AdapterBatch:
        """The LoRAs as the slots take them; gradients flow back to `flat`."""
        return self.view(self.flat)

    def view(self, flat: Tensor) -> dict[str, LowRankBatch]:
        """Views of rows like those of `flat` (M, P), as M LoRAs."""
        pieces = flat.split(self.sizes, dim=1)
        alpha = flat.new_full((len(flat),), self.alpha)
        return {
            layer.name: LowRankBatch(
                A=A.view(-1, self.rank, layer.in_features), B=B.view(-1, layer.out_features, self.rank), alpha=alpha
            )
            for layer, A, B in zip(self.layers, pieces[::2], pieces[1::2], strict=True)
        }

    def unstack(self, flat: Tensor) -> list[Adapter]:
        """Rows (M, P) as M adapters of their own, detached, on the CPU."""
        return unstack(self.view(flat.detach().cpu().clone()))

    def clip_gradients(self, norm: float) -> None:
        """Scales each LoRA's gradient down to at most `norm` (Euclidean, over all its layers)."""
        gradient = self.flat.grad
        if norm and gradient is not None:
            gradient.mul_((norm / (gradient.norm(dim=1, keepdim=True) + 1e-6)).clamp_(max=1))

    def keep(self, mask: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Drops the LoRAs where `mask` (N,) is false, from `optimizer`'s state too."""
        state = optimizer.state.pop(self.flat)
        self.flat = nn.Parameter(self.flat.detach()[mask])
        optimizer.param_groups[0]["params"] = [self.flat]
        optimizer.state[self.flat] = {key: value[mask] if value.ndim == 2 else value for key, value in state.items()}
