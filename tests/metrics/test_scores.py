"""Motion, pose and likeness on clips whose score is known beforehand."""

from collections.abc import Callable

import pytest
import torch
from torchmetrics import MetricCollection

from lofa.errors import ConfigError, LofaError
from lofa.metrics import (
    METRICS,
    ClipMetric,
    DynamicDegree,
    IdentitySimilarity,
    PoseAccuracy,
    PoseError,
    StyleSimilarity,
    block_flow,
    build_metrics,
    find_metrics,
    top_flow,
)


def moving_squares(step: int, frames: int = 9, size: int = 64) -> torch.Tensor:
    """A textured square moving `step` pixels a frame to the right: (1, T, H, W, 3)."""
    texture = torch.randint(0, 256, (20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = torch.zeros(1, frames, size, size, 3, dtype=torch.uint8)
    for frame in range(frames):
        left = 2 + frame * step
        clip[0, frame, 20:40, left : left + 20] = texture
    return clip


@pytest.mark.parametrize("scale", [1, 2])
def test_block_flow_finds_the_shift(scale: int) -> None:
    clip = moving_squares(3)
    clip = clip.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    flow = block_flow(clip)
    assert flow.shape == (1, 8, 2, 64, 64)
    assert flow[0, 0, :, 30, 12].tolist() == [3 * scale, 0]
    assert flow[0, :, :, :10].abs().max() == 0


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-2, 0), (0, 2), (0, -3), (1, -2)])
def test_flow_is_x_before_y_from_a_frame_to_the_next(dx: int, dy: int) -> None:
    texture = torch.randint(0, 256, (96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = torch.stack([texture[16 - k * dy :][:64, 16 - k * dx :][:, :64] for k in range(3)])[None]
    flow = block_flow(clip)
    assert (flow[0, :, :, 20:40, 20:40].flatten(2).mT == torch.tensor([dx, dy])).all()


def test_top_flow_is_the_mean_of_the_largest_twentieth() -> None:
    flow = torch.zeros(1, 2, 2, 10, 20)
    flow[0, 0, 0, 0, :10], flow[0, 0, 1, 0, :10] = 3, 4  # 10 of 200 vectors of length 5
    flow[0, 1, 0, 3, :5] = -8
    flow[0, 1, 1, :3] = 0.5
    assert top_flow(flow).tolist() == [[5.0, pytest.approx((5 * 8 + 5 * 0.5) / 10)]]


def flows(lengths: list[float]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Everything moves down by these lengths, pair by pair."""
    return lambda clips: torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1) * torch.tensor(lengths).view(1, -1, 1, 1, 1)


@pytest.mark.parametrize(
    ("lengths", "dynamic"),
    [
        ([1.6, 1.6, 0, 0, 0, 0, 0, 0], 1),  # a quarter of the pairs is enough
        ([99, 0, 0, 0, 0, 0, 0, 0], 0),  # an eighth is not, however fast
        ([1.4] * 8, 0),
        ([1.5] * 8, 0),  # above the threshold, not at it
        ([2.9] * 8, 1),  # of the short side: 6/256 of 64 px, not of 128
    ],
)
@pytest.mark.parametrize("size", [(64, 128), (128, 64)])
def test_a_quarter_of_the_frame_pairs_above_6_of_256_of_the_short_side_is_dynamic(
    lengths: list[float], dynamic: int, size: tuple[int, int]
) -> None:
    metric = DynamicDegree(flows(lengths))
    metric.update(torch.zeros(1, 9, *size, 3, dtype=torch.uint8))
    assert float(metric.compute()) == dynamic


def test_dynamic_degree_counts_the_clips_that_move() -> None:
    metric = DynamicDegree()
    metric.update(moving_squares(0))
    metric.update(torch.cat([moving_squares(3), moving_squares(1)]))
    assert float(metric.compute()) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="at least two frames"):
        metric.update(moving_squares(0)[:, :1])


def test_pose_accuracy_is_the_share_of_joints_near_enough() -> None:
    joints = torch.tensor([[0.0, 0.0], [0.0, 10.0], [4.0, 5.0], [2.0, 5.0]]).expand(2, 3, 4, 2)
    offset = torch.tensor([[0.0, 0.0], [1.9, 0.0], [0.0, 2.1], [torch.nan, 0.0]])
    metric = PoseAccuracy(lambda clips: joints[: len(clips)] + offset)
    metric.update(torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8), joints=joints)
    assert float(metric.compute()) == 0.5
    wide = PoseAccuracy(lambda clips: joints.flip(-1) + offset)  # a lying figure: its longer side is its width
    wide.update(torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8), joints=joints.flip(-1))
    assert float(wide.compute()) == 0.5
    with pytest.raises(ValueError, match="asked for were"):
        metric.update(torch.zeros(1, 3, 16, 16, 3, dtype=torch.uint8), joints=joints)


def mean_colour(clips: torch.Tensor) -> torch.Tensor:
    return clips.float().mean((2, 3))


def test_style_is_one_on_itself_and_zero_on_the_orthogonal() -> None:
    red, green = torch.zeros(2, 1, 2, 4, 4, 3, dtype=torch.uint8)
    red[..., 0], green[..., 1] = 200, 90
    metric = StyleSimilarity(mean_colour)
    metric.update(red, real=red)
    assert float(metric.compute()) == pytest.approx(1)
    metric.update(red, real=green)
    assert float(metric.compute()) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="1 generated clips but 2 references"):
        metric.update(red, real=torch.cat([red, red]))


def test_every_reference_frame_has_the_same_say_whatever_its_length() -> None:
    """Frames along (1, 1, 0) and (0, 0, 1); references along (1, 0, 0), length 200, and (0, 1, 0), length 10."""
    generated, real = torch.zeros(2, 1, 2, 4, 4, 3, dtype=torch.uint8)
    generated[0, 0, ..., :2], generated[0, 1, ..., 2] = 50, 70
    real[0, 0, ..., 0], real[0, 1, ..., 1] = 200, 10
    for metric in (StyleSimilarity(mean_colour), IdentitySimilarity(mean_colour)):
        metric.update(generated, real=real)
        assert float(metric.compute()) == pytest.approx((1 + 0) / 2)


def test_identity_scores_lost_faces_as_zero_and_needs_one_in_the_reference() -> None:
    def faces(clips: torch.Tensor) -> torch.Tensor:
        features = mean_colour(clips)
        return features.where(features.sum(-1, keepdim=True) > 0, torch.nan)

    clip = torch.full((1, 4, 4, 4, 3), 100, dtype=torch.uint8)
    half = clip.clone()
    half[:, :2] = 0
    metric = IdentitySimilarity(faces)
    metric.update(half, real=half)
    assert float(metric.compute()) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no face"):
        metric.update(clip, real=clip * 0)
    with pytest.raises(ValueError, match="not finite"):
        StyleSimilarity(faces).update(half, real=clip)


def test_joint_error_is_in_pixels_and_a_lost_joint_is_as_far_off_as_the_figure_is_large() -> None:
    joints = torch.tensor([[0.0, 0.0], [0.0, 10.0]]).expand(1, 3, 2, 2)
    metric = PoseError(lambda clips: joints + torch.tensor([[3.0, 4.0], [torch.nan, 0.0]]))
    metric.update(torch.zeros(1, 3, 16, 16, 3, dtype=torch.uint8), joints=joints)
    assert float(metric.compute()) == (5 + 10) / 2


def test_every_line_of_the_table_says_what_the_class_is() -> None:
    for name, metric in METRICS.items():
        assert metric.kind.higher_is_better is not None, name
        assert metric.arrow.endswith("↑" if metric.kind.higher_is_better else "↓") and metric.about
    assert [name for name, metric in METRICS.items() if not issubclass(metric.kind, ClipMetric)] == ["fvd"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["fdv"], "no metric 'fdv'; there are: fvd"), ([], "at least one"), (["fvd"] * 2, "each once")],
)
def test_unknown_metrics_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_metrics(names)


def test_a_network_that_does_not_ship_has_to_be_given() -> None:
    with pytest.raises(ConfigError, match="metric pose_accuracy looks with a network of its own, 'pose', and none"):
        build_metrics(["pose_accuracy"], {})
    with pytest.raises(LofaError, match="metric network /nowhere: the folder does not exist"):
        build_metrics(["clip_t"], {"clip": "/nowhere"})


def test_metrics_work_in_a_collection() -> None:
    joints = torch.zeros(1, 9, 4, 2)
    collection = MetricCollection({"moves": DynamicDegree(), "pose": PoseAccuracy(lambda clips: joints)})
    collection.update(generated=moving_squares(3), joints=joints)
    assert {name: float(value) for name, value in collection.compute().items()} == {"moves": 1.0, "pose": 1.0}
