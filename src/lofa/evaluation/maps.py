"""True and predicted response maps of a held-out prompt.

The truth is the per-sample LoRA of the prompt's class: R = |delta_w| / (|W| + eps) > tau. Stage I predicts the
probability of R from W and the prompt; the predicted adapter implies a map of its own. No network has seen the class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from torch.nn.functional import cosine_similarity

from lofa.adapters import Adapter
from lofa.data.samples import Sample, values_of
from lofa.evaluation.cases import Case
from lofa.evaluation.methods import Method
from lofa.paths import Location
from lofa.predict import Predictor
from lofa.training import response_target

__all__ = ["LayerMaps", "maps_of_methods", "response_maps"]


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
    set_dir: Location, predictor: Predictor, sample: Sample, truth: Adapter, predicted: Adapter, layers: int = 6
) -> list[LayerMaps]:
    """Maps of a few layers spread evenly over the predictor's table.

    Args:
        set_dir: where a pose prompt lies.
        predictor: its `response_map` is shown.
        sample: its caption or pose is the prompt.
        truth: the LoRA of the sample's class.
        predicted: the predictor's adapter for the prompt.
        layers: how many, of those that all three have.
    """
    asked = values_of(set_dir, [sample], predictor.backbone, predictor.conditions)
    (probabilities,) = cast(list[dict[str, Tensor]], predictor.response_map(**asked))
    names = [name for name in probabilities if name in truth and name in predicted]
    count = min(layers, len(names))
    chosen = [names[round(place * (len(names) - 1) / max(1, count - 1))] for place in range(count)]
    found = []
    for name in chosen:
        weight, tau = predictor.backbone.weight(name).cpu().float(), predictor.hypernet.tau
        deltas = (adapter.delta_weight(name).cpu().float() for adapter in (truth, predicted))
        true, own = (response_target(delta, weight, tau).float() for delta in deltas)
        probability = probabilities[name].cpu().float()
        cosine = float(cosine_similarity(probability.flatten(), true.flatten(), dim=0))
        found.append(LayerMaps(name, true, probability, own, cosine, float(true.mean().sqrt())))
    return found


def maps_of_methods(
    set_dir: Location, methods: Sequence[Method], cases: Sequence[Case], shown: int = 2
) -> dict[str, list[LayerMaps]]:
    """Prompt -> maps, of the first cases, where LoRAs were trained class by class and a predictor was asked."""
    trained = next((method.adapters for method in methods if method.role == "trained" and method.by_prompt), None)
    asked = next((method for method in methods if method.role == "predicted" and method.predictor is not None), None)
    if trained is None or asked is None or asked.predictor is None or asked.adapters is None:
        return {}
    if not asked.predictor.hypernet.has_response:
        return {}
    maps = {}
    for first in (case.score[0] for case in cases[:shown]):
        sample = asked.asked[first.id]
        adapters = trained[first.id], asked.adapters[first.id]
        maps[sample.caption] = response_maps(set_dir, asked.predictor, sample, *adapters)
    return maps
