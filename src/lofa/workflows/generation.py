"""A clip of a prompt, with or without an adapter, and the two compared."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.errors import BackboneError
from lofa.workflows.clips import difference, side_by_side

__all__ = ["Comparison", "check_adapter", "check_made_for", "compare_clips"]


@dataclass(frozen=True)
class Comparison:
    """Two clips from the same noise.

    clip: uint8 (T, H, 3 W + gaps, 3), without the adapter | with it | their difference times `factor`. change: mean
    absolute difference, of 255 grey levels.
    """

    clip: Tensor
    factor: int
    change: float


def compare_clips(
    backbone: Backbone, prompt: str, adapter: Adapter, strength: float = 1.0, seed: int = 0, **sampling: Any
) -> Comparison:
    """Generates a prompt without and with an adapter; the values of `sampling` are those of `Backbone.generate`."""
    clips = backbone.generate(prompt, [None, adapter], strength=strength, seed=[seed] * 2, **sampling).cpu()
    shown, factor = difference(*clips)
    mean = (clips[0].float() - clips[1].float()).abs().mean()
    return Comparison(side_by_side(*torch.stack([*clips, shown])), factor, float(mean))


def check_made_for(given: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter, `given` in words, whose header names another backbone (BackboneError)."""
    made_for = adapter.metadata.get("backbone_fingerprint")
    if made_for is not None and not backbone.accepts(made_for):
        raise BackboneError(
            f"{given}: made for the backbone {adapter.metadata.get('backbone')!r} ({made_for}), not for "
            f"{backbone.name!r} ({backbone.fingerprint}); give the right one by backbone=<name or folder>"
        )


def check_adapter(given: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter that was made for another backbone, or has other layers (BackboneError)."""
    check_made_for(given, adapter, backbone)
    try:
        backbone.adapter_batch(adapter)
    except BackboneError as error:
        raise BackboneError(f"{given}: {error}") from None
