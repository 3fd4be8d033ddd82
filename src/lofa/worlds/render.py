"""Joints to pixels: thick antialiased capsules over a calm background, all clips and frames at once.

The distance from a pixel p to the segment ab is |p - a - h (b - a)| with h = clip((p - a).(b - a) / |b - a|^2, 0, 1); a
bone of radius r covers clip(r - distance + 1/2, 0, 1) of the pixel (lengths in pixels), smoothed. Layers are composed
from back to front.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lofa.worlds.appearance import BACKGROUNDS, Appearance
from lofa.worlds.skeleton import BONES

__all__ = ["render"]

_CHUNK = 16  # frames at a time: the working set of 64x64 pixels stays in the cache
_HORIZON = 0.80


def _backgrounds(appearance: Appearance, camera: NDArray[np.floating], size: int) -> torch.Tensor:
    """Backgrounds (T, 3, size) in [0, 1]: every style varies along the rows only."""
    rows = (torch.arange(size) + 0.5) / size - torch.as_tensor(camera[:, 1:], dtype=torch.float32)
    colour = torch.tensor(BACKGROUNDS[appearance.background], dtype=torch.float32).div(255)
    edge = torch.ones_like(rows)
    if appearance.style == "two-tone":
        edge = 1 - 0.24 * ((rows - _HORIZON) * size + 0.5).clamp(0, 1)
    elif appearance.style == "gradient":
        edge = 1 - 0.36 * rows.clamp(-0.1, 1.1)
    elif appearance.style == "floor":
        edge = 1 - 0.45 * (2 - ((rows - _HORIZON) * size).abs()).clamp(0, 1)
    # darkening a black wall would show nothing: lighten it instead
    if appearance.background == "black":
        return (colour[:, None] + (1 - edge)[:, None] * 0.5).clamp(0, 1)
    return colour[:, None] * edge[:, None]


def _coverage(
    points: torch.Tensor, bones: Sequence[tuple[int, int, float]], radius: torch.Tensor, size: int
) -> torch.Tensor:
    """Share (N, size, size) of each pixel covered by the union of `bones`; points (N, 15, 2), radius (N,) in pixels."""
    grid = torch.arange(size) + 0.5
    nearest = torch.full((len(points), size, size), torch.inf)
    for first, last, factor in bones:
        a, span = points[:, first], points[:, last] - points[:, first]
        px, py = (grid - a[:, :1])[:, None, :], (grid - a[:, 1:])[:, :, None]
        length = span.square().sum(-1).clamp_min(1e-6)
        sx, sy = span[:, 0, None, None], span[:, 1, None, None]
        h = (px * (sx / length[:, None, None]) + py * (sy / length[:, None, None])).clamp_(0, 1)
        distance = (px - h * sx).square_().add_((py - h * sy).square_()).sqrt_()
        nearest = torch.minimum(nearest, distance.sub_((radius * factor)[:, None, None]))
    cover = nearest.neg_().add_(0.5).clamp_(0, 1)
    return cover * cover * (3 - 2 * cover)


@torch.no_grad()
def render(joints: NDArray[np.floating], appearances: Sequence[Appearance], size: int = 64) -> NDArray[np.uint8]:
    """Draw B clips.

    Args:
        joints: (B, T, 15, 2), finite, image coordinates in [0, 1] with the camera's drift included.
        appearances: B looks; the background moves with the camera's drift.
        size: height and width in pixels.

    Returns:
        uint8 (B, T, size, size, 3). A clip does not depend on the others of its batch.
    """
    points = torch.as_tensor(np.asarray(joints, dtype=np.float32))
    clips, frames = points.shape[:2]
    video = torch.empty(clips, frames, 3, size, size)
    for clip, look in enumerate(appearances):
        video[clip] = _backgrounds(look, look.camera(frames), size)[..., None]
    flat, pixels = video.flatten(0, 1), points.flatten(0, 1) * size
    radius = torch.tensor([look.limb_radius * size for look in appearances]).repeat_interleave(frames)
    shades = [look.shades() for look in appearances]
    for shade, bones in BONES:
        colours = torch.tensor([s[shade] for s in shades], dtype=torch.float32).div(255).repeat_interleave(frames, 0)
        for i in range(0, len(flat), _CHUNK):
            part = slice(i, i + _CHUNK)
            cover = _coverage(pixels[part], bones, radius[part], size)[:, None]
            flat[part].lerp_(colours[part, :, None, None].expand_as(flat[part]), cover.expand_as(flat[part]))
    return video.mul_(255).round_().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().numpy()
