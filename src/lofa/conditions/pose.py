"""Pose: a sequence of 2-D joints `(T, J, 2)` becomes condition tokens by convolutions over time that see all joints.

Before the network the sequence is made free of where the person stands and how large they appear:
    centre = mean over frames and joints,  scale = root-mean-square distance of the joints to their own frame's mean
    p = (keypoints - centre) / scale,      v_t = p_t - p_(t-1)   (v_0 = 0)
One centre and one scale a sequence: what the body travels within the clip stays, in units of body size.
The unit of the input (pixels, normalised coordinates) therefore does not matter.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lofa.conditions.condition import Padded, Tokens
from lofa.conditions.kind import ConditionEncoder, ConditionKind, PromptEncoder
from lofa.errors import DataError

__all__ = ["Pose", "PoseEncoder", "PoseInput", "normalise_pose", "read_pose"]

PoseInput = Tensor | np.ndarray | str | Path
"""A pose sequence (T, J, 2), or a file of one: .npy, .npz (its only array, or `keypoints`), .json (nested lists)."""


def normalise_pose(values: Tensor, lengths: Tensor) -> Tensor:
    """Joints `(B, T, J, 2)`, lengths `(B,)` -> place- and size-free joints of the same shape, zero in the padding."""
    mask = (torch.arange(values.shape[1], device=values.device) < lengths[:, None])[:, :, None, None]
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


class PoseEncoder(ConditionEncoder):
    """Pose sequences -> condition tokens, one token per `2 ** halvings` frames.

    joints: `J`. width: features `C` of a token. channels: of the hidden layers. layers: convolutions, at least
    `halvings`.
    """

    def __init__(self, *, joints: int, width: int, channels: int = 128, layers: int = 4, halvings: int = 1) -> None:
        super().__init__()
        self.joints, self.width, self.channels, self.layers, self.halvings = joints, width, channels, layers, halvings
        if min(joints, width, channels, layers) < 1 or not 0 <= halvings <= layers:
            raise ValueError(f"sizes must be at least 1, and halvings from 0 to layers; got {self.config}")
        self.embed = nn.Linear(4 * joints, channels)
        strides = [1] * (layers - halvings) + [2] * halvings
        self.convolutions = nn.ModuleList(_TimeConvolution(channels, channels, stride) for stride in strides)
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, width)

    @property
    def config(self) -> dict[str, int]:
        """Constructor values."""
        return {name: getattr(self, name) for name in ("joints", "width", "channels", "layers", "halvings")}

    def encode(self, rows: Padded) -> Tokens:
        """Joints `(P, T, J, 2)` -> tokens `(P, N, width)`, zero padded; the result depends on no padding frame."""
        lengths = rows.lengths
        points = normalise_pose(rows.values, lengths)
        speed = F.pad(points[:, 1:] - points[:, :-1], (0, 0, 0, 0, 1, 0))
        x = self.embed(rearrange([points, speed], "f b t j xy -> b t (f j xy)"))
        for convolution in self.convolutions:
            x, lengths = convolution(x, lengths)
        real = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
        return Tokens(torch.where(real, self.project(self.norm(x)), 0.0), lengths)


class Pose(ConditionKind):
    """Joints of a clip's figure; rows are `(T, J, 2)`."""

    name, argument, encoder = "pose", "pose", PoseEncoder

    def facts(self, backbone: PromptEncoder, row: Tensor) -> dict[str, int]:
        return {"joints": row.shape[1]}

    def read(self, values: Sequence[Any], backbone: PromptEncoder, config: Mapping[str, Any]) -> list[Tensor]:
        return [read_pose(value, config["joints"]) for value in values]


def read_pose(pose: PoseInput, joints: int) -> Tensor:
    """Joints (T, J, 2) float32 of an array or file.

    DataError: a missing or damaged file, another shape, another number of joints, or a joint that is not finite.
    """
    where = f"pose file {pose}" if isinstance(pose, str | Path) else "pose"
    values = _read_file(Path(pose)) if isinstance(pose, str | Path) else pose
    try:
        points = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: not an array of numbers ({error})") from None
    if points.ndim != 3 or points.shape[1:] != (joints, 2) or not len(points):
        raise DataError(f"{where}: has shape {tuple(points.shape)}; this predictor takes (frames, {joints}, 2)")
    if not points.isfinite().all():
        frame = int((~points.isfinite()).flatten(1).any(1).nonzero()[0])
        raise DataError(f"{where}: frame {frame} holds a joint that is not a finite number; fill missing joints first")
    return points


def _read_file(path: Path) -> object:
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        if path.suffix not in {".npy", ".npz"}:
            raise DataError(f"pose file {path}: the ending {path.suffix!r} is not one of .npy, .npz, .json")
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = list(content.files)
            name = "keypoints" if "keypoints" in names else names[0]
            if name != "keypoints" and len(names) > 1:
                raise DataError(f"pose file {path}: holds {', '.join(names)}; call the pose sequence keypoints")
            return content[name]
    except FileNotFoundError:
        raise DataError(f"pose file {path}: no such file") from None
    except (ValueError, OSError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"pose file {path}: can't be read ({error})") from None
