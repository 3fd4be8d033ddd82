"""From uint8 clips to what an image network takes: resize, centre crop, scale to [0, 1], normalise.

The values are read from the `preprocessor_config.json` beside the network (transformers' format), the work is done
in torch on the whole batch: the same numbers as the PIL processors up to their rounding to 8 bits, many times faster.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lofa.errors import LofaError
from lofa.files import read_json
from lofa.resources import data_dir

__all__ = ["Preprocessing", "check_clips", "metric_folder"]

_MODES = {2: "bilinear", 3: "bicubic"}


def check_clips(clips: Tensor) -> Tensor:
    """Returns `clips` if they are uint8 (B, T, H, W, 3) with at least one clip and frame, else ValueError."""
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise ValueError(f"clips must be uint8 (B, T, H, W, 3), not {clips.dtype} {tuple(clips.shape)}")
    return clips


def metric_folder(path: str | Path | None, shipped: str, *more: str) -> Path:
    """The folder of a metric network, by default the shipped one of this name.

    Raises:
        LofaError: it does not exist, or lacks its configurations or one of the files `more`.
    """
    path = Path(path or data_dir() / "tiny-metrics" / shipped)
    missing = [name for name in ("config.json", "preprocessor_config.json", *more) if not (path / name).is_file()]
    if missing:
        state = f"lacks {', '.join(missing)}" if path.is_dir() else "does not exist"
        raise LofaError(
            f"metric network {path}: the folder {state}; give a folder saved by transformers' save_pretrained"
        )
    return path


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants of its pixels; `size` is the shorter side or (height, width), `crop` (height, width)."""

    size: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mode: str = "bicubic"

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing":
        """Reads `preprocessor_config.json` of a transformers folder (LofaError where it is missing or strange)."""
        file = folder / "preprocessor_config.json"
        config = read_json(file)
        try:
            size, crop = config["size"], config.get("crop_size") or config["size"]
            shorter = size.get("shortest_edge")
            resized = shorter if shorter is not None else (size["height"], size["width"])
            return cls(
                size=resized if config.get("do_resize", True) else None,
                crop=(crop["height"], crop["width"]) if config.get("do_center_crop", False) else None,
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
                mode=_MODES[config.get("resample", 3)],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LofaError(
                f"{file}: need size, image_mean, image_std and a resample of {sorted(_MODES)} (problem with {error})"
            ) from None

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> normalised float32 (N, 3, height, width)."""
        pixels = frames.permute(0, 3, 1, 2).float().div(255)
        height, width = pixels.shape[-2:]
        goal = self._resized(height, width)
        if goal != (height, width):
            pixels = interpolate(pixels, goal, mode=self.mode, antialias=True, align_corners=False).clamp(0, 1)
        if self.crop is not None:
            top, left = ((side - part) // 2 for side, part in zip(goal, self.crop, strict=True))
            pixels = pixels[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(value, device=frames.device).view(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        scale = self.size / min(height, width)
        return max(self.size, int(height * scale)), max(self.size, int(width * scale))
