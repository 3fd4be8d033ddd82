"""How much an adapter changes its backbone, layer by layer and in words.

    norm      |delta_w|                                       Frobenius
    relative  |delta_w| / |W|
    share     of the entries with |delta_w| > tau (|W| + 1e-8), the density of the response map

The words go by `relative` over all adapted layers together and in the worst one. Their thresholds were set on tiny-wan
with trained LoRAs at growing strength; the measurement stands in docs/formats.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lofa.adapters import LowRank
from lofa.training import response_target

__all__ = ["HUGE", "TINY", "LayerChange", "measure_change", "say_change", "total_relative"]

TINY = 1e-3
"""Below this relative change of all adapted layers nothing visible changes."""

HUGE = 0.2
"""Above this relative change the model is likely to break."""


@dataclass(frozen=True)
class LayerChange:
    """What an adapter does to one layer; `weight_norm` |W|, `relative` and `share` are None where W is not known."""

    norm: float
    weight_norm: float | None = None
    relative: float | None = None
    share: float | None = None


def measure_change(
    adapter: Mapping[str, LowRank], weight: Callable[[str], Tensor] | None, tau: float = 0.02
) -> dict[str, LayerChange]:
    """Layer name -> change, from W (out, in) of a layer by its name, asked for one at a time; None: not known."""
    if weight is None:
        return {name: LayerChange(pair.norm()) for name, pair in adapter.items()}
    return {name: _change(pair, weight(name).float(), tau) for name, pair in adapter.items()}


def _change(pair: LowRank, W: Tensor, tau: float) -> LayerChange:
    norm, size = pair.norm(), float(W.norm())
    share = float(response_target(pair.delta_weight().float(), W, tau).float().mean())
    return LayerChange(norm, size, norm / size if size else math.inf if norm else 0.0, share)


def total_relative(changes: Iterable[LayerChange]) -> float | None:
    """|delta_w| / |W| over all layers together; None where no W is known."""
    known = [(change.norm, change.weight_norm) for change in changes if change.weight_norm is not None]
    size = math.hypot(*(weight for _, weight in known))
    return math.hypot(*(norm for norm, _ in known)) / size if size else None


def say_change(changes: Mapping[str, LayerChange]) -> str:
    """One sentence: empty, tiny, huge, or neither."""
    if not any(change.norm for change in changes.values()):
        return "empty: every layer is zero, it changes nothing"
    total = total_relative(changes.values())
    if total is None:
        return "not empty; how much it changes is known beside its backbone alone (backbone=<name or folder>)"
    worst = max(changes, key=lambda name: changes[name].relative or 0.0)
    if total < TINY:
        return f"tiny: it moves the weights by {total:.2g} of their norm, below {TINY:g} nothing visible changes"
    if total > HUGE:
        return f"huge: it moves the weights by {total:.2g} of their norm, above {HUGE:g} the model is likely to break"
    if (changes[worst].relative or 0.0) > HUGE:
        return f"huge in places: {worst} moves by {changes[worst].relative:.2g} of its norm; try a smaller strength"
    return f"ordinary: it moves the weights by {total:.2g} of their norm"
