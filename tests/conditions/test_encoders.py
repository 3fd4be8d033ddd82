"""Condition encoders: padding never shows, poses are free of place and size, an encoder is rebuilt from its config."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lofa.conditions import Padded, PoseEncoder, TextEncoder, Tokens, encoder_classes, normalise_pose, pad_rows

POSES = [torch.randn(n, 5, 2, dtype=torch.float64) for n in (7, 12, 1)]


def encoder(**values: int) -> PoseEncoder:
    torch.manual_seed(0)
    return PoseEncoder(joints=5, width=6, channels=16, **values).double()


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    made = pad_rows(rows)
    return made.values, made.lengths


def read(net: torch.nn.Module, values: Tensor, lengths: Tensor) -> Tokens:
    return net({"pose": Padded(values, lengths)})


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_a_pose_gives_the_same_tokens_alone_and_in_a_padded_batch(halvings: int) -> None:
    net = encoder(halvings=halvings)
    values, lengths = padded(POSES)
    values[0, 7:] = float("nan")
    tokens, token_lengths = read(net, values, lengths)
    assert token_lengths.tolist() == [-(-n // 2**halvings) for n in lengths.tolist()]
    assert tokens.shape == (3, int(token_lengths.max()), 6)
    for i, pose in enumerate(POSES):
        alone, length = read(net, pose[None], lengths[i : i + 1])
        assert torch.allclose(tokens[i, : int(length)], alone[0], atol=1e-12)
        assert not tokens[i, int(length) :].any()


def test_place_and_size_of_the_person_do_not_matter_but_motion_does() -> None:
    net, pose, length = encoder(), POSES[0][None], torch.tensor([7])
    tokens = read(net, pose, length)[0]
    assert torch.allclose(read(net, 3.5 * pose + torch.tensor([10.0, -2.0]), length)[0], tokens, atol=1e-9)
    travelling = pose + torch.linspace(0, 5, 7, dtype=torch.float64)[None, :, None, None]
    assert not torch.allclose(read(net, travelling, length)[0], tokens, atol=1e-2)


def test_poses_are_normalised_by_their_own_frames_size_about_the_sequence_s_centre() -> None:
    """Beside numpy: a figure that travels is not larger for it, and is mirrored on no axis."""
    values, lengths = padded([POSES[0] + torch.arange(7.0)[:, None, None] * torch.tensor([5.0, -1.0]), POSES[1]])
    found = normalise_pose(values, lengths)
    for row, length in zip(range(2), lengths.tolist(), strict=True):
        pose = values[row, :length].numpy()
        size = np.sqrt(np.mean([((frame - frame.mean(0)) ** 2).sum(1) for frame in pose]))
        np.testing.assert_allclose(found[row, :length], (pose - pose.mean((0, 1))) / size, rtol=1e-9)
        assert not found[row, length:].any()


@pytest.mark.parametrize("frames", [1, 6])
def test_a_figure_that_is_one_point_stands_in_the_middle(frames: int) -> None:
    """All joints at one place, as of a figure far away: nothing is divided by its size, which is 0."""
    point = torch.full((1, frames, 5, 2), 3.0, dtype=torch.float64)
    assert torch.equal(normalise_pose(point, torch.tensor([frames])), torch.zeros_like(point))
    assert read(encoder(), point, torch.tensor([frames]))[0].isfinite().all()


def test_a_still_figure_has_no_speed() -> None:
    """The network reads joints and their change from the frame before, the first one's being 0."""
    net, seen = encoder(layers=1, halvings=0), []
    net.embed.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    moving, still = torch.randn(4, 5, 2, dtype=torch.float64), torch.randn(1, 5, 2, dtype=torch.float64).expand(4, 5, 2)
    for pose in (moving, still):
        read(net, pose[None], torch.tensor([4]))
        points = normalise_pose(pose[None], torch.tensor([4]))[0].flatten(1)
        speed = torch.cat([torch.zeros(1, 10), points[1:] - points[:-1]])
        torch.testing.assert_close(seen.pop()[0], torch.cat([points, speed], dim=1))
    assert not speed.any()


def test_every_parameter_of_the_pose_encoder_gets_a_finite_gradient() -> None:
    net = encoder()
    read(net, *padded(POSES))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_text_passes_unchanged() -> None:
    tokens, lengths = torch.randn(2, 4, 8), torch.tensor([4, 2])
    assert read(TextEncoder(width=8), tokens, lengths) == (tokens, lengths)


@pytest.mark.parametrize(("name", "values"), [("text", {"width": 8}), ("pose", {"joints": 5, "width": 6, "layers": 3})])
def test_an_encoder_is_rebuilt_from_its_config(name: str, values: dict[str, int]) -> None:
    net = encoder_classes()[name](**values)
    twin = encoder_classes()[name](**net.config)
    twin.load_state_dict(net.state_dict())
    assert twin.config == net.config and twin.width == net.width
