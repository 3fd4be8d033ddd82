"""True and predicted response maps of a held-out prompt.

The truth is the per-sample LoRA of the prompt's class: R = |delta_w| / (|W| + eps) > tau. Stage I predicts the
probability of R from W and the prompt; the predicted adapter implies a map of its own. No network has seen the class.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lofa.adapters import Adapter
from lofa.evaluation.cases import Case
from lofa.evaluation.methods import prompts_of
from lofa.predict import Predictor
from lofa.stores import Location
from lofa.training import response_target

__all__ = ["LayerMaps", "response_maps"]


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Maps (out, in) of one layer, all in [0, 1].

    Attributes:
        layer: its name.
        truth: 0 or 1, where the LoRA changes the weight by more than tau.
        predicted: stage I's probability.
        implied: 0 or 1, the map of the predicted adapter itself.
        cosine: of `predicted` and `truth`.
        constant_cosine: what a constant map would reach, the root of the true density.
    """

    layer: str
    truth: Tensor
    predicted: Tensor
    implied: Tensor
    cosine: float
    constant_cosine: float


def response_maps(
    set_dir: Location, predictor: Predictor, case: Case, truth: Adapter, predicted: Adapter, layers: int = 6
) -> list[LayerMaps]:
    """Maps of a few layers spread evenly over the predictor's table.

    Args:
        set_dir: where a pose prompt lies.
        predictor: its `response_map` is shown.
        case: the prompt.
        truth: the LoRA of the case's class.
        predicted: the predictor's adapter for the prompt.
        layers: how many, of those that all three have.
    """
    backbone = predictor.backbone
    tau = predictor.hypernet.tau
    maps: Any = predictor.response_map(**prompts_of(set_dir, predictor, [case]))
    names = [name for name in maps[0] if name in truth and name in predicted]
    count = min(layers, len(names))
    chosen = [names[round(place * (len(names) - 1) / max(1, count - 1))] for place in range(count)]
    return [
        _layer(
            name,
            backbone.weight(name).cpu(),
            truth.delta_weight(name),
            maps[0][name],
            predicted.delta_weight(name),
            tau,
        )
        for name in chosen
    ]


def _layer(name: str, weight: Tensor, truth: Tensor, predicted: Tensor, implied: Tensor, tau: float) -> LayerMaps:
    true, own = (response_target(delta.cpu().float(), weight.float(), tau).float() for delta in (truth, implied))
    probability = predicted.cpu().float()
    cosine = float(cosine_similarity(probability.flatten(), true.flatten(), dim=0))
    return LayerMaps(name, true, probability, own, cosine, float(true.mean().sqrt()))
