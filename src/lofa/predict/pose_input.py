"""Pose prompts: arrays or files -> joints (T, J, 2)."""

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lofa.errors import DataError

__all__ = ["PoseInput", "read_pose"]

PoseInput = Tensor | np.ndarray | str | Path
"""A pose sequence (T, J, 2), or a file of one: .npy, .npz (its only array, or `keypoints`), .json (nested lists)."""


def read_pose(pose: PoseInput, joints: int) -> Tensor:
    """Joints (T, J, 2) float32.

    Args:
        pose: array or file
        joints: J that the predictor takes

    Raises:
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
