"""LoFA: predicts, from one prompt, the LoRA weights that adapt a frozen video or image generator to it.

The public names are loaded when first used, so that `import lofa` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lofa import interop, metrics
    from lofa.adapters import Adapter, LowRank
    from lofa.backbones import Backbone, load_backbone
    from lofa.errors import AdapterFormatError, LofaError
    from lofa.predict import Predictor

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "AdapterFormatError",
    "Backbone",
    "LofaError",
    "LowRank",
    "Predictor",
    "interop",
    "load_backbone",
    "metrics",
]

_HOMES = {
    "Adapter": "lofa.adapters",
    "AdapterFormatError": "lofa.errors",
    "Backbone": "lofa.backbones",
    "LofaError": "lofa.errors",
    "LowRank": "lofa.adapters",
    "Predictor": "lofa.predict",
    "load_backbone": "lofa.backbones",
}
_ROOMS = ("interop", "metrics")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"lofa.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lofa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
