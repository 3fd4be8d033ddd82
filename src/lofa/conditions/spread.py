"""How much condition tokens differ between the samples of a batch: 0 where an encoder gives all samples the same.

    spread = sqrt( sum (c - mean over samples of c)^2 / sum c^2 )        the mean at each place by itself

An encoder can fall there within a hundred steps, at too high a rate for instance; no loss shows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lofa.conditions.condition import Inputs, Padded, Tokens
from lofa.conditions.kind import ConditionEncoder

__all__ = ["spread", "spreads"]


def spread(tokens: Tokens) -> Tensor:
    """Deviation over samples, relative to the size of the tokens: () from 0 up to 1."""
    c = tokens.tokens.float()
    real = (torch.arange(c.shape[1], device=c.device) < tokens.lengths[:, None])[..., None]
    mean = torch.where(real, c, 0.0).sum(0) / real.sum(0).clamp_min(1)
    deviation, size = (torch.where(real, part, 0.0).square().sum() for part in (c - mean, c))
    return (deviation / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt()


@torch.no_grad()
def spreads(encoder: ConditionEncoder, inputs: Inputs) -> dict[str, Tensor]:
    """The spread of each kind of which a batch has two rows. The encoder is called for every kind, on all processes."""
    found = {}
    for kind, rows in inputs.items():
        made = encoder({kind: Padded(rows.values, rows.lengths.clamp_min(1))})
        there = rows.lengths > 0
        if int(there.sum()) > 1:
            found[kind] = spread(Tokens(made.tokens[there], made.lengths[there]))
    return found
