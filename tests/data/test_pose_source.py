"""Pose sequences of any length become clips of one."""

import numpy as np
import pytest

from lofa.data.pose_source import resample


@pytest.mark.parametrize(("length", "frames"), [(9, 5), (5, 9), (7, 7), (2, 6), (1, 4), (30, 1)])
def test_a_sequence_is_resampled_linearly_from_its_first_to_its_last_moment(length: int, frames: int) -> None:
    points = np.random.default_rng(0).normal(size=(length, 3, 2))
    found = resample(points, frames)
    assert found.shape == (frames, 3, 2)
    times = np.arange(frames) * (length - 1) / max(frames - 1, 1)
    for joint in range(3):
        for axis in range(2):
            expected = np.interp(times, np.arange(length), points[:, joint, axis])
            np.testing.assert_allclose(found[:, joint, axis], expected, atol=1e-12)
