"""What a file of conf/backbone says."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

from lofa.errors import BackboneError, ConfigError
from lofa.resources import conf_dir

__all__ = ["BackboneConfig", "known_backbones", "read_config"]

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BackboneConfig:
    """What a file of conf/backbone says.

    Attributes:
        name: of the backbone
        path: folder, name of a shipped model, or hub id
        family: model family, decides the classes; None: that of the model's pipeline class
        kinds: layer kinds to adapt; none: the family's own
        dtype: precision of denoiser and text encoder (the autoencoder stays in float32)
        gradient_checkpointing: recompute activations in the backward pass
        architecture: component -> constructor values, to build the denoiser without weights; what is no component is
            the pipeline's (boundary_ratio)
    """

    name: str
    path: str
    family: str | None = None
    kinds: tuple[str, ...] = ()
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    architecture: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if self.dtype not in _DTYPES:
            raise ConfigError(f"backbone.dtype={self.dtype}: choose one of {', '.join(_DTYPES)}")


def known_backbones() -> list[str]:
    """Names of conf/backbone."""
    return sorted(file.stem for file in (conf_dir() / "backbone").glob("*.yaml"))


def read_config(name: str) -> BackboneConfig:
    """Reads conf/backbone/<name>.yaml.

    Raises:
        BackboneError: there is no such file.
        ConfigError: it has a wrong key or value.
    """
    file = conf_dir() / "backbone" / f"{name}.yaml"
    if not file.is_file():
        raise BackboneError(f"no backbone {name!r}; known names: {', '.join(known_backbones())}")
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    allowed = [field.name for field in fields(BackboneConfig)]
    unknown = [key for key in values if key not in allowed]
    if unknown:
        raise ConfigError(f"{file}: unknown key {unknown[0]!r}; there are {', '.join(allowed)}")
    return BackboneConfig(**values)
