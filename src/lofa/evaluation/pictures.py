"""Pictures as data URIs, so that a page needs no file beside it."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["animation", "colours", "heat_map"]

# dark to bright, even in lightness: five stops of matplotlib's magma
_STOPS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)
_LARGEST_MAP = 192


def animation(clips: Sequence[Tensor], fps: float) -> str:
    """Clips uint8 (T, H, W, 3) of one size side by side, as one looping WebP: so they stay in step."""
    gap = torch.full_like(clips[0][:, :, :2], 255)
    parts = [part for clip in clips for part in (gap, clip.cpu())][1:]
    frames = [Image.fromarray(frame.numpy()) for frame in torch.cat(parts, dim=2)]
    file = io.BytesIO()
    frames[0].save(
        file,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / fps),
        loop=0,
        quality=82,
        method=4,
    )
    return _uri(file, "webp")


def heat_map(values: Tensor) -> str:
    """A map (h, w) of values in [0, 1] as a PNG, dark to bright; large ones are averaged down."""
    values = values.detach().float().cpu()
    scale = max(values.shape) / _LARGEST_MAP
    if scale > 1:
        size = [max(1, round(side / scale)) for side in values.shape]
        values = interpolate(values[None, None], size, mode="area")[0, 0]
    file = io.BytesIO()
    Image.fromarray(colours(values)).save(file, format="PNG", optimize=True)
    return _uri(file, "png")


def colours(values: Tensor) -> NDArray[np.uint8]:
    """Values (...) in [0, 1] as colours (..., 3), dark to bright."""
    places = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(values.numpy(), places, _STOPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _uri(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
