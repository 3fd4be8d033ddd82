"""Loading backbones: by a name of conf/backbone, from a diffusers folder, or from the hub."""

from dataclasses import fields
from pathlib import Path

import torch

from lofa.backbones.base import Backbone, Sampling
from lofa.backbones.config import BackboneConfig, known_backbones, read_config
from lofa.backbones.families import FAMILIES
from lofa.backbones.source import BareModel, Source
from lofa.errors import BackboneError, ConfigError
from lofa.files import read_json
from lofa.resources import data_dir

__all__ = ["SAMPLING_FILE", "backbone_folder", "bare_backbone", "load_backbone"]

SAMPLING_FILE = "lofa.json"
"""Beside model_index.json: the sampling defaults a model was trained for (the fields of `Sampling`)."""


def load_backbone(
    name_or_path: str | Path | BackboneConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Opens a frozen backbone: its configurations now, each of its networks when it is first used.

    Args:
        name_or_path: a name of conf/backbone ("tiny-wan"), a diffusers folder, a hub id, or a configuration
        device: where its networks go
        dtype: precision of denoiser and text encoder; None takes the configuration's (float32 for a folder)

    Raises:
        BackboneError: nothing of that name, no model, one of a family that is not known, or the hub can't be reached.
    """
    config = _resolve(name_or_path)
    folder = _folder(config.path)
    if folder is None and "/" not in config.path:
        raise BackboneError(f"{config.name}: there is no folder {config.path} here nor in {data_dir()}")
    return _open(config, Source(config.name, folder or config.path), device, dtype)


def bare_backbone(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """A denoiser alone, of its architecture: see `BareModel` (ConfigError: the configuration has none)."""
    if config.architecture is None:
        raise ConfigError(f"backbone {config.name} has no architecture: the denoiser's constructor values are needed")
    return _open(config, BareModel(config.name, config.architecture, device), device, None)


def _open(config: BackboneConfig, source: Source, device: torch.device | str, dtype: torch.dtype | None) -> Backbone:
    chosen: torch.dtype = getattr(torch, config.dtype) if dtype is None else dtype
    family = _family(config, source)
    backbone = family(config.name, source, config.kinds, chosen, device, config.gradient_checkpointing)
    file = None if source.folder is None else source.folder / SAMPLING_FILE
    if file is not None and file.is_file():
        try:
            backbone.sampling = Sampling(**read_json(file))
        except TypeError as error:
            keys = ", ".join(field.name for field in fields(Sampling))
            raise BackboneError(f"{file}: must hold exactly {keys} ({error})") from None
    return backbone


def backbone_folder(name_or_path: str | Path) -> Path:
    """The diffusers folder that a name means here, without loading it.

    Raises:
        BackboneError: nothing of that name, or it lies on the hub alone.
    """
    config = _resolve(name_or_path)
    folder = _folder(config.path)
    if folder is None:
        raise BackboneError(
            f"{config.name}: {config.path} is no folder here; download it (hf download {config.path} "
            "--local-dir <folder>) and give that folder: backbone=<folder>"
        )
    _family(config, Source(config.name, folder))
    return folder


def _resolve(name_or_path: str | Path | BackboneConfig) -> BackboneConfig:
    if isinstance(name_or_path, BackboneConfig):
        return name_or_path
    text, known = str(name_or_path), known_backbones()
    if text in known:
        return read_config(text)
    if Path(text).is_dir():
        return BackboneConfig(name=Path(text).name, path=text)
    if Path(text).is_absolute() or text.count("/") != 1 or text.startswith("."):
        raise BackboneError(
            f"no backbone {text!r}: neither a folder, nor a hub id (owner/name), nor one of {', '.join(known)}"
        )
    return BackboneConfig(name=text, path=text)


def _folder(path: str) -> Path | None:
    """The folder `path` means, if it means one: itself, or a shipped model of that name."""
    return next((folder for folder in (Path(path), data_dir() / path) if folder.is_dir()), None)


def _family(config: BackboneConfig, source: Source) -> type[Backbone]:
    """The family of the model's pipeline class, or of the configuration where the model names none."""
    pipeline = source.index.get("_class_name")
    for name, family in FAMILIES.items():
        named, fits = config.family == name, pipeline in family.pipelines
        if (named and (fits or pipeline is None)) or (fits and config.family is None):
            return family
    asked = "" if config.family is None else f"backbone.family={config.family}: "
    known = ", ".join(f"{name} ({', '.join(family.pipelines)})" for name, family in FAMILIES.items())
    raise BackboneError(f"{asked}{config.path} is a {pipeline}; the families known here are {known}")
