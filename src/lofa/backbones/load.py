"""Loading backbones: by a name of conf/backbone, from a diffusers folder, or from the hub."""

from dataclasses import fields
from pathlib import Path

import torch

from lofa.backbones.base import Backbone, Sampling
from lofa.backbones.config import BackboneConfig, known_backbones, read_config
from lofa.backbones.families import FAMILIES
from lofa.backbones.family import Family
from lofa.backbones.source import BareModel, ModelFiles, Source
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
    source = _files(config)
    family = _family(config, source)
    return _open(config, family, source, _sampling(source.folder, family), device, dtype)


def bare_backbone(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """A denoiser alone, of its architecture: see `BareModel`.

    Raises:
        ConfigError: the configuration has no `architecture`.
    """
    if config.architecture is None:
        raise ConfigError(f"backbone {config.name} has no architecture: the denoiser's constructor values are needed")
    source = BareModel(config.name, config.architecture, device)
    family = _family(config, source)
    return _open(config, family, source, family.sampling, device, None)


def _open(
    config: BackboneConfig,
    family: Family,
    source: Source,
    sampling: Sampling,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> Backbone:
    chosen: torch.dtype = getattr(torch, config.dtype) if dtype is None else dtype
    backbone = family.backbone(config.name, source, config.kinds or family.kinds, sampling, chosen, device)
    if config.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
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
    _family(config, ModelFiles(config.name, folder))
    return folder


def _resolve(name_or_path: str | Path | BackboneConfig) -> BackboneConfig:
    if isinstance(name_or_path, BackboneConfig):
        return name_or_path
    text = str(name_or_path)
    if text in known_backbones():
        return read_config(text)
    if Path(text).is_dir():
        return BackboneConfig(name=Path(text).name, path=text)
    if Path(text).is_absolute() or text.count("/") != 1 or text.startswith("."):
        raise BackboneError(
            f"no backbone {text!r}: neither a folder, nor a hub id (owner/name), nor one of "
            f"{', '.join(known_backbones())}"
        )
    return BackboneConfig(name=text, path=text)


def _folder(path: str) -> Path | None:
    """The folder `path` means, if it means one: itself, or a shipped model of that name."""
    return next((folder for folder in (Path(path), data_dir() / path) if folder.is_dir()), None)


def _files(config: BackboneConfig) -> ModelFiles:
    folder = _folder(config.path)
    if folder is None and "/" not in config.path:
        raise BackboneError(f"{config.name}: there is no folder {config.path} here nor in {data_dir()}")
    return ModelFiles(config.name, folder or config.path)


def _family(config: BackboneConfig, source: Source) -> Family:
    """The family that the configuration names; else that of the model's pipeline class."""
    known = ", ".join(f"{family.name} ({', '.join(family.pipelines)})" for family in FAMILIES.values())
    pipeline = source.index.get("_class_name")
    if config.family is not None and config.family not in FAMILIES:
        raise BackboneError(f"backbone.family={config.family}: the families known here are {known}")
    fits = (family for family in FAMILIES.values() if pipeline in family.pipelines)
    found = FAMILIES[config.family] if config.family is not None and pipeline is None else next(fits, None)
    if found is None or config.family not in (None, found.name):
        raise BackboneError(f"{config.path}: a {pipeline}; the families known here are {known}")
    return found


def _sampling(folder: Path | None, family: Family) -> Sampling:
    file = None if folder is None else folder / SAMPLING_FILE
    if file is None or not file.is_file():
        return family.sampling
    try:
        return Sampling(**read_json(file))
    except TypeError as error:
        keys = ", ".join(field.name for field in fields(Sampling))
        raise BackboneError(f"{file}: must hold exactly {keys} ({error})") from None
