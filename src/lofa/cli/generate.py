"""lofa generate: a prompt, with or without an adapter -> a clip."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.cli.clips import check_clip_path, difference, side_by_side, write_clip
from lofa.cli.objects import check_fingerprint, check_layers, load_predictor, pick_device
from lofa.errors import ConfigError
from lofa.targets import check_target

__all__ = ["generate"]


def generate(config: Any) -> Tensor:
    """Generates one clip, uint8 (T, H, W, 3), and writes it."""
    out = Path(config.out)
    check_clip_path(out)
    check_target(out, config.overwrite)
    backbone, adapter = _load(config)
    if config.compare and adapter is None:
        raise ConfigError("compare=true: there is nothing to compare with; give adapter=<file> or predictor=<run>")
    clips = backbone.generate(
        config.prompt,
        [None, adapter] if config.compare else adapter,
        strength=config.strength,
        seed=[config.seed] * (2 if config.compare else 1),
        steps=config.steps,
        guidance=config.guidance,
        frames=config.frames,
        height=config.height,
        width=config.width,
        negative_prompt=config.negative_prompt,
    ).cpu()
    told = ""
    if config.compare:
        change, factor = difference(*clips)
        clips = torch.stack([*clips, change])
        mean = (clips[0].float() - clips[1].float()).abs().mean()
        told = f", base | adapted | difference x{factor}; mean change {mean:.2f} of 255 grey levels"
    clip = side_by_side(*clips)
    write_clip(out, clip, config.fps or backbone.sampling.fps)
    print(f"{out}: {len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}{told}")
    return clip


def _load(config: Any) -> tuple[Backbone, Adapter | None]:
    """The backbone and the adapter, checked to belong together."""
    if config.adapter is not None and config.predictor is not None:
        raise ConfigError("adapter= and predictor= are both given: give one of them")
    if config.predictor is not None:
        predictor = load_predictor(config)
        return predictor.backbone, predictor.predict(prompt=config.prompt)
    adapter = None if config.adapter is None else Adapter.load(config.adapter)
    known = {} if adapter is None else adapter.metadata
    backbone = load_backbone(config.model or known.get("backbone") or "tiny-wan", pick_device(config.device))
    if adapter is not None:
        check_fingerprint(config.adapter, adapter, backbone)
        check_layers(f"adapter={config.adapter}", adapter, backbone)
    return backbone, adapter
