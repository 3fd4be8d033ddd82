"""What a file of conf/backbone says."""

from dataclasses import dataclass
from typing import Any

import yaml

from lofa.errors import BackboneError, ConfigError
from lofa.options import REQUIRED, Options, option, text
from lofa.resources import conf_dir

__all__ = ["BackboneConfig", "known_backbones", "read_config"]


@dataclass(frozen=True)
class BackboneConfig(Options):
    """Which model is adapted, and how it is loaded."""

    name: str = text(REQUIRED, "of the backbone")
    path: str = text(REQUIRED, "folder, name of a shipped model, or hub id")
    family: str | None = option(None, "model family, decides the classes; none: that of the model's pipeline class")
    kinds: tuple[str, ...] = option((), "layer kinds to adapt; none named: the family's own")
    dtype: str = option(
        "float32",
        "precision of denoiser and text encoder (the autoencoder stays in float32): float32, bfloat16 or float16",
        among=("float32", "bfloat16", "float16"),
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass")
    architecture: dict[str, Any] | None = option(
        None,
        "component -> constructor values, to build the denoiser without weights; what is no component is the "
        "pipeline's (boundary_ratio)",
    )


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
    try:
        return BackboneConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    except TypeError as error:
        raise ConfigError(f"{file}: {error}") from None
