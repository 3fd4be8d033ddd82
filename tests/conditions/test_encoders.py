"""Condition encoders: padding never shows, poses are free of place and size, an encoder is rebuilt from its config."""

import pytest
import torch
from torch import Tensor

from lofa.conditions import CONDITION_ENCODERS, PoseEncoder, TextEncoder, pad_rows
from lofa.errors import DataError

POSES = [torch.randn(n, 5, 2, dtype=torch.float64) for n in (7, 12, 1)]


def encoder(**values: int) -> PoseEncoder:
    torch.manual_seed(0)
    return PoseEncoder(joints=5, width=6, channels=16, **values).double()


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_rows(rows)


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_a_pose_gives_the_same_tokens_alone_and_in_a_padded_batch(halvings: int) -> None:
    net = encoder(halvings=halvings)
    values, lengths = padded(POSES)
    values[0, 7:] = float("nan")
    tokens, token_lengths = net(values, lengths)
    assert token_lengths.tolist() == [-(-n // 2**halvings) for n in lengths.tolist()]
    assert tokens.shape == (3, int(token_lengths.max()), 6)
    for i, pose in enumerate(POSES):
        alone, length = net(pose[None], lengths[i : i + 1])
        assert torch.allclose(tokens[i, : int(length)], alone[0], atol=1e-12)
        assert not tokens[i, int(length) :].any()


def test_place_and_size_of_the_person_do_not_matter_but_motion_does() -> None:
    net, pose, length = encoder(), POSES[0][None], torch.tensor([7])
    tokens = net(pose, length)[0]
    assert torch.allclose(net(3.5 * pose + torch.tensor([10.0, -2.0]), length)[0], tokens, atol=1e-9)
    travelling = pose + torch.linspace(0, 5, 7, dtype=torch.float64)[None, :, None, None]
    assert not torch.allclose(net(travelling, length)[0], tokens, atol=1e-2)


def test_every_parameter_of_the_pose_encoder_gets_a_finite_gradient() -> None:
    net = encoder()
    net(*padded(POSES))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_a_joint_that_is_no_number_is_named() -> None:
    values, lengths = padded(POSES)
    values[1, 3, 2, 0] = float("nan")
    with pytest.raises(DataError, match="sequence 1: frame 3"):
        encoder()(values, lengths)


def test_text_passes_unchanged() -> None:
    tokens, lengths = torch.randn(2, 4, 8), torch.tensor([4, 2])
    assert TextEncoder(width=8)(tokens, lengths) == (tokens, lengths)


@pytest.mark.parametrize(
    ("net", "shape"), [(TextEncoder(width=8), (2, 4, 7)), (PoseEncoder(joints=5, width=6), (2, 4, 6, 2))]
)
def test_wrong_shapes_are_refused(net: torch.nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B,"):
        net(torch.zeros(shape), torch.tensor([4, 4]))


def test_pose_lengths_outside_the_sequence_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.12"):
        encoder()(padded(POSES)[0], torch.tensor([7, 13, 1]))


@pytest.mark.parametrize(("name", "values"), [("text", {"width": 8}), ("pose", {"joints": 5, "width": 6, "layers": 3})])
def test_an_encoder_is_rebuilt_from_its_config(name: str, values: dict[str, int]) -> None:
    net = CONDITION_ENCODERS[name](**values)
    twin = CONDITION_ENCODERS[name](**net.config)
    twin.load_state_dict(net.state_dict())
    assert twin.config == net.config and twin.width == net.width
