"""Loading backbones: by a name of conf/backbone, from a diffusers folder, or from the hub."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lofa.backbones.base import Backbone, Sampling
from lofa.backbones.config import BackboneConfig, known_backbones, read_config
from lofa.backbones.wan import ATTENTION_KINDS, WAN_SAMPLING, WanBackbone
from lofa.errors import BackboneError, ConfigError
from lofa.files import read_json
from lofa.resources import data_dir

__all__ = [
    "SAMPLING_FILE",
    "backbone_folder",
    "bare_backbone",
    "load_backbone",
]

SAMPLING_FILE = "lofa.json"
"""Beside model_index.json: the sampling defaults a model was trained for (the fields of `Sampling`)."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FAMILY_OF_PIPELINE = {"WanPipeline": "wan"}


def load_backbone(
    name_or_path: str | Path | BackboneConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Backbone:
    """Loads a frozen backbone.

    Args:
        name_or_path: a name of conf/backbone ("tiny-wan"), a diffusers folder, a hub id, or a configuration
        device: where its modules go
        dtype: precision of the transformer and text encoder; None takes the configuration's (float32 for a folder)

    Raises:
        BackboneError: nothing of that name, a damaged folder, or the hub can't be reached.
    """
    config = _resolve(name_or_path)
    pipeline = _load_pipeline(config, _DTYPES[config.dtype] if dtype is None else dtype)
    backbone = WanBackbone(config.name, pipeline, config.kinds or ATTENTION_KINDS, _sampling(_folder(config.path)))
    if config.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
    return backbone.to(device)


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
    _check_folder(folder)
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


def _load_pipeline(config: BackboneConfig, dtype: torch.dtype) -> WanPipeline:
    folder = _folder(config.path)
    if folder is not None:
        _check_folder(folder)
    elif "/" not in config.path:
        raise BackboneError(f"{config.name}: there is no folder {config.path} here nor in {data_dir()}")
    try:
        with _quiet():
            return WanPipeline.from_pretrained(
                config.path if folder is None else folder,
                dtype={"default": dtype, "vae": torch.float32},
                local_files_only=folder is not None,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
        if folder is not None:
            raise BackboneError(
                f"{folder}: can't be loaded as a WanPipeline ({reason}); download or make it again"
            ) from None
        raise BackboneError(
            f"{config.name}: can't get {config.path} from the hub ({reason}). Without the hub, download it elsewhere "
            f"(hf download {config.path} --local-dir <folder>) and give that folder: backbone.path=<folder>"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' progress bars and advice; errors are ours to tell."""
    verbosity = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity[0])
        transformers_logging.set_verbosity(verbosity[1])
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:6]) or "nothing"
        raise BackboneError(f"{folder}: no diffusers model (it has no model_index.json); found {found}")
    pipeline = read_json(index).get("_class_name")
    if pipeline not in _FAMILY_OF_PIPELINE:
        raise BackboneError(f"{folder}: a {pipeline}; the pipelines known here are {', '.join(_FAMILY_OF_PIPELINE)}")


def _sampling(folder: Path | None) -> Sampling:
    file = None if folder is None else folder / SAMPLING_FILE
    if file is None or not file.is_file():
        return WAN_SAMPLING
    try:
        return Sampling(**read_json(file))
    except TypeError as error:
        keys = ", ".join(field.name for field in fields(Sampling))
        raise BackboneError(f"{file}: must hold exactly {keys} ({error})") from None


def bare_backbone(config: BackboneConfig, device: torch.device | str = "meta") -> Backbone:
    """The transformer alone, built from its constructor values: on the meta device for layer tables of any size,
    on another one with random weights for benchmarks.

    Raises:
        ConfigError: the configuration has no `architecture`.
    """
    if config.architecture is None:
        raise ConfigError(
            f"backbone {config.name} has no architecture: the transformer's constructor values are needed"
        )
    architecture = json.loads(json.dumps(dict(config.architecture)))
    with torch.device(device):
        transformer = WanTransformer3DModel(**architecture).to(_DTYPES[config.dtype])
    absent: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None}
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    pipeline = WanPipeline(scheduler=scheduler, transformer=transformer, **absent)
    backbone = WanBackbone(config.name, pipeline, config.kinds or ATTENTION_KINDS)
    if config.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
    return backbone
