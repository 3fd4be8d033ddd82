"""Clips as files, mp4 or gif by the ending of the name, and a clip without and with an adapter."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.errors import ConfigError
from lofa.files import atomic_write

__all__ = ["CLIP_ENDINGS", "Comparison", "check_clip_path", "compare_clips", "difference", "side_by_side", "write_clip"]

CLIP_ENDINGS = (".mp4", ".gif")


def check_clip_path(path: Path) -> None:
    """Refuses a name that `write_clip` could not write, before anything is computed (ConfigError)."""
    if path.suffix.lower() not in CLIP_ENDINGS:
        raise ConfigError(f"out={path}: the ending {path.suffix!r} is none of {', '.join(CLIP_ENDINGS)}")


def side_by_side(*clips: Tensor, gap: int = 4) -> Tensor:
    """Clips uint8 (T, H, W, 3) of one size next to each other, with white columns between."""
    white = torch.full_like(clips[0][:, :, :gap], 255)
    return torch.cat([part for clip in clips for part in (white, clip)][1:], dim=2)


def difference(one: Tensor, other: Tensor) -> tuple[Tensor, int]:
    """|other - one| of clips uint8 (T, H, W, 3), amplified so that small changes are seen.

    Returns:
        uint8 (T, H, W, 3), and the factor: the largest power of two, 32 at most, at which 99 % of the values stay
        within 255
    """
    change = (other.int() - one.int()).abs()
    up_to = torch.bincount(change.flatten(), minlength=256).cumsum(0)
    high = int((up_to < 0.99 * change.numel()).sum())
    factor = max(factor for factor in (1, 2, 4, 8, 16, 32) if factor == 1 or factor * high <= 255)
    return (factor * change).clamp(max=255).to(torch.uint8), factor


@dataclass(frozen=True)
class Comparison:
    """Two clips from the same noise.

    clip: uint8 (T, H, 3 W + gaps, 3), without the adapter | with it | their difference times `factor`. change: mean
    absolute difference, of 255 grey levels.
    """

    clip: Tensor
    factor: int
    change: float


def compare_clips(
    backbone: Backbone, prompt: str, adapter: Adapter, strength: float = 1.0, seed: int = 0, **sampling: Any
) -> Comparison:
    """Generates a prompt without and with an adapter; the values of `sampling` are those of `Backbone.generate`."""
    clips = backbone.generate(prompt, [None, adapter], strength=strength, seed=[seed] * 2, **sampling).cpu()
    shown, factor = difference(*clips)
    mean = (clips[0].float() - clips[1].float()).abs().mean()
    return Comparison(side_by_side(*torch.stack([*clips, shown])), factor, float(mean))


def write_clip(path: Path, clip: Tensor, fps: float) -> None:
    """Writes a clip uint8 (T, H, W, 3) that plays at `fps` frames a second.

    Raises:
        ConfigError: an ending other than .mp4 or .gif.
    """
    check_clip_path(path)
    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".gif":
            frames = [Image.fromarray(frame.numpy()) for frame in clip]
            frames[0].save(
                temporary, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0
            )
        else:
            _write_mp4(temporary, clip, fps)


def _write_mp4(path: Path, clip: Tensor, fps: float) -> None:
    height, width = (side - side % 2 for side in clip.shape[1:3])  # yuv420p halves both sides
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in clip[:, :height, :width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.contiguous().numpy(), format="rgb24")))
        container.mux(stream.encode())
