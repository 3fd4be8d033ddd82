"""Pose: a sequence of 2-D joints `(T, J, 2)` becomes condition tokens by convolutions over time that see all joints.

Before the network the sequence is made free of where the person stands and how large they appear:
    centre = mean over frames and joints,  scale = root-mean-square distance of the joints to their own frame's mean
    p = (keypoints - centre) / scale,      v_t = p_t - p_(t-1)   (v_0 = 0)
One centre and one scale a sequence: what the body travels within the clip stays, in units of body size.
The unit of the input (pixels, normalised coordinates) therefore does not matter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lofa.errors import DataError

__all__ = ["PoseEncoder", "normalise_pose"]


def normalise_pose(values: Tensor, lengths: Tensor) -> Tensor:
    """Joints `(B, T, J, 2)` and lengths `(B,)` -> place- and size-free joints of the same shape, zero in the padding.

    Raises DataError where a real frame holds a joint that is not finite, naming row and frame.
    """
    mask = (torch.arange(values.shape[1], device=values.device) < lengths[:, None])[:, :, None, None]
    bad = (~values.isfinite() & mask).flatten(2).any(-1)
    if bad.any():
        row, frame = bad.nonzero()[0].tolist()
        raise DataError(
            f"pose sequence {row}: frame {frame} holds a joint that is not a finite number; "
            "fill missing joints (for example from the neighbouring frames) before giving the sequence"
        )
    values = torch.where(mask, values, 0.0)
    entries = lengths.to(values.dtype)[:, None, None, None] * values.shape[2]
    centre = values.sum((1, 2), keepdim=True) / entries
    around = torch.where(mask, values - values.mean(2, keepdim=True), 0.0)
    scale = (around.square().sum((1, 2, 3), keepdim=True) / entries).sqrt()
    return torch.where(mask, (values - centre) / scale.clamp_min(1e-6), 0.0)


class _TimeConvolution(nn.Module):
    """Residual convolution over time, kernel 3; `stride` 2 halves the frames, rounding up. Padding stays out."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.LayerNorm(inputs)
        self.conv = nn.Conv1d(inputs, channels, kernel_size=3, stride=stride, padding=1)
        self.skip = nn.Linear(inputs, channels)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        h = torch.where(real, F.silu(self.norm(x)), 0.0)
        h = rearrange(self.conv(rearrange(h, "b t c -> b c t")), "b c t -> b t c")
        return self.skip(x[:, :: self.stride]) + h, (lengths + self.stride - 1) // self.stride


class PoseEncoder(nn.Module):
    """Pose sequences -> condition tokens, one token per `2 ** halvings` frames.

    joints: `J`. width: features `C` of a token. channels: of the hidden layers. layers: convolutions, at least
    `halvings`.
    """

    def __init__(self, *, joints: int, width: int, channels: int = 128, layers: int = 4, halvings: int = 1) -> None:
        super().__init__()
        for name, size in {"joints": joints, "width": width, "channels": channels, "layers": layers}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {size}")
        if not 0 <= halvings <= layers:
            raise ValueError(f"halvings must lie in 0..layers={layers}; got {halvings}")
        self.joints, self.width, self.channels, self.layers, self.halvings = joints, width, channels, layers, halvings
        self.embed = nn.Linear(4 * joints, channels)
        strides = [1] * (layers - halvings) + [2] * halvings
        self.convolutions = nn.ModuleList(_TimeConvolution(channels, channels, stride) for stride in strides)
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)

    @property
    def config(self) -> dict[str, int]:
        """Constructor values."""
        names = ("joints", "width", "channels", "layers", "halvings")
        return {name: getattr(self, name) for name in names}

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Joints `(B, T, J, 2)`, frames `(B,)` -> tokens `(B, N, width)` zero padded, and their lengths `(B,)`.

        The result depends on no padding frame. ValueError on wrong shapes or lengths, DataError on joints that are not
        finite.
        """
        if values.ndim != 4 or values.shape[2:] != (self.joints, 2):
            raise ValueError(f"poses must be (B, T, {self.joints}, 2); got {tuple(values.shape)}")
        if int(lengths.min()) < 1 or int(lengths.max()) > values.shape[1]:
            raise ValueError(f"pose lengths must lie in 1..{values.shape[1]}; got {lengths.tolist()}")
        points = normalise_pose(values, lengths)
        speed = F.pad(points[:, 1:] - points[:, :-1], (0, 0, 0, 0, 1, 0))
        x = self.embed(rearrange([points, speed], "f b t j xy -> b t (f j xy)"))
        for convolution in self.convolutions:
            x, lengths = convolution(x, lengths)
        real = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        return torch.where(real, self.project(self.norm(x)), 0.0), lengths
