"""What a model family brings."""

from collections.abc import Callable
from dataclasses import dataclass

from lofa.backbones.base import Backbone, Sampling

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """A line of the table of families. Names of its layers in adapter files: `lofa.adapters.families`.

    Attributes:
        name: what `backbone.family` calls it
        pipelines: names of diffusers' pipeline classes whose models are of this family
        kinds: layer kinds that are adapted where none are named
        sampling: defaults of `generate`, where the model brings none
        backbone: (name, source, kinds, sampling, dtype, device) -> backbone
    """

    name: str
    pipelines: tuple[str, ...]
    kinds: tuple[str, ...]
    sampling: Sampling
    backbone: Callable[..., Backbone]
