"""The published predictor, read as it was released, for `Predictor.load("reference:<folder>")`.

    <folder>/stage1_preview.pth, stage2_preview.pth     plain state dicts
             config.yaml                                constructor values, sections stage1 and stage2

It says nothing of its backbone, so the layer table is that of the backbone in use: kinds count in the published order
(self-attention q, k, v, o, then cross-attention), depths as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from lofa.backbones import Backbone, BackboneConfig
from lofa.conditions import PROMPT, TextEncoder
from lofa.errors import DataError
from lofa.hypernets import Hypernetwork, Part, TwoStage
from lofa.interop.reference import load_hypernet
from lofa.predict.stages import Description

__all__ = ["PUBLISHED_BACKBONE", "read_published"]

PUBLISHED_BACKBONE = "wan2.1-t2v-1.3b"
"""What the released checkpoints were trained for."""

_FILES = {1: "stage1_preview.pth", 2: "stage2_preview.pth"}
_KINDS = tuple(
    f"{attention}.{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")
)


def read_published(
    folder: str | Path, backbone: Backbone, device: torch.device | str
) -> tuple[Description, Hypernetwork]:
    """Description and both stages as one hypernetwork, frozen.

    Raises:
        DataError: a file is missing or damaged, or the networks do not fit the backbone's layers.
        ConfigError: a constructor value that is unknown or out of range.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.yaml")
    networks = {
        stage: load_hypernet(folder / file, stage, config[f"stage{stage}"]).requires_grad_(False).eval().to(device)
        for stage, file in _FILES.items()
    }
    layers = [layer for layer in backbone.layers if layer.kind in _KINDS]
    found = {(layer.out_features, layer.in_features) for layer in layers}, backbone.condition_width
    for network in networks.values():
        c = network.config
        if found != ({(c.in_dim, c.in_dim)}, c.context_dim) or c.num_type < len(_KINDS):
            raise DataError(
                f"{folder}: made for layers of {c.in_dim} x {c.in_dim}, {c.num_type} kinds of them, and text tokens "
                f"{c.context_dim} wide, but {backbone.name!r} has layers of {sorted(found[0])} and tokens {found[1]} "
                f"wide; give the backbone it was trained for with backbone=<name or folder> ({PUBLISHED_BACKBONE} for "
                "the released one)"
            )
    description = Description(
        folder,
        (PROMPT.name,),
        BackboneConfig(backbone.name, backbone.name),
        backbone.fingerprint,
        {layer.name: (layer.depth, _KINDS.index(layer.kind)) for layer in layers},
        "two_stage",
        {},
    )
    response, adapter = (Part(networks[stage], TextEncoder(width=backbone.condition_width)) for stage in _FILES)
    return description, TwoStage(response=response, adapter=adapter).eval()


def _read_config(path: Path) -> Mapping[str, Mapping[str, Any]]:
    if not path.is_file():
        wanted = ", ".join((*_FILES.values(), path.name))
        raise DataError(f"{path}: no such file; a published predictor is a folder with {wanted}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not readable as yaml ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict) or not all(isinstance(values.get(f"stage{stage}"), dict) for stage in _FILES):
        raise DataError(f"{path}: needs the sections stage1 and stage2")
    return values
