"""Several conditions as one row of tokens: joined without padding, any of them left out, never all."""

import pytest
import torch

from lofa.conditions import (
    ComposedEncoder,
    Inputs,
    PoseEncoder,
    TextEncoder,
    compose,
    drop_kinds,
    pad_rows,
    spread,
    spreads,
)
from lofa.conditions.condition import Tokens

WIDTH = 6


def inputs() -> dict[str, object]:
    draw = torch.Generator().manual_seed(0)
    text = [torch.randn(n, WIDTH, generator=draw, dtype=torch.float64) for n in (3, 1, 4)]
    poses = [torch.randn(n, 5, 2, generator=draw, dtype=torch.float64) for n in (4, 7, 6)]
    return {"text": pad_rows(text), "pose": pad_rows(poses)}


def encoder() -> ComposedEncoder:
    torch.manual_seed(0)
    made = compose({"text": TextEncoder(width=WIDTH), "pose": PoseEncoder(joints=5, width=WIDTH, channels=8, layers=2)})
    assert isinstance(made, ComposedEncoder)
    return made.double()


def without(given: Inputs, kind: str, row: int) -> dict[str, object]:
    """`given`, one row of a kind left out."""
    lengths = given[kind].lengths.clone()
    lengths[row] = 0
    return {**given, kind: type(given[kind])(given[kind].values, lengths)}


def test_one_kind_is_read_by_its_own_encoder_as_it_is() -> None:
    alone = PoseEncoder(joints=5, width=WIDTH, channels=8, layers=2)
    assert compose({"pose": alone}) is alone and alone.part("pose") is alone
    assert not any(name.startswith("encoders.") for name in alone.state_dict())


def test_rows_are_joined_without_padding_each_kind_with_its_vector() -> None:
    net, given = encoder(), inputs()
    tokens, lengths = net(given)
    parts = {kind: net.part(kind)({kind: rows}) for kind, rows in given.items()}
    assert lengths.tolist() == [3 + 2, 1 + 4, 4 + 3] and tokens.shape == (3, 7, WIDTH)
    for row in range(3):
        expected = torch.cat([own.tokens[row, : own.lengths[row]] + net.kinds[kind] for kind, own in parts.items()])
        torch.testing.assert_close(tokens[row, : lengths[row]], expected)
        assert not tokens[row, lengths[row] :].any()


def test_the_order_in_which_conditions_are_given_does_not_matter() -> None:
    net, given = encoder(), inputs()
    assert torch.equal(net(given).tokens, net(dict(reversed(given.items()))).tokens)


@pytest.mark.parametrize(("left_out", "other"), [("text", "pose"), ("pose", "text")])
def test_a_sample_without_a_kind_has_the_tokens_of_the_other_alone(left_out: str, other: str) -> None:
    net, given = encoder(), inputs()
    together, alone = net(without(given, left_out, 1)), net({other: given[other]})
    length = int(alone.lengths[1])
    assert together.lengths[1] == length
    torch.testing.assert_close(together.tokens[1, :length], alone.tokens[1, :length])
    torch.testing.assert_close(together.tokens[0, :5], net(given).tokens[0, :5])


def test_every_parameter_has_a_finite_gradient_also_where_its_kind_is_left_out() -> None:
    net, given = encoder(), inputs()
    for row in range(3):
        given = without(given, "pose", row)
    net(given).tokens.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert not gradients["kinds.pose"].any() and gradients["kinds.text"].any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="of one width; got text 6, pose 8"):
        compose({"text": TextEncoder(width=6), "pose": PoseEncoder(joints=5, width=8)})
    with pytest.raises(ValueError, match="too many values"):
        TextEncoder(width=WIDTH)(inputs())


def test_kinds_are_dropped_as_often_as_asked_and_never_all_of_a_sample() -> None:
    rows = pad_rows([torch.ones(2, 3)] * 4000)
    given = {"text": rows, "pose": rows}

    def kept(probability: float, seed: int) -> torch.Tensor:
        dropped = drop_kinds(given, probability, torch.Generator().manual_seed(seed))
        return torch.stack([one.lengths > 0 for one in dropped.values()])

    found = kept(0.3, 0)
    assert found.any(0).all() and torch.equal(found, kept(0.3, 0)) and not torch.equal(found, kept(0.3, 1))
    # dropped alone, and not drawn for both: .3 * .7 + half of .3 * .3
    torch.testing.assert_close((~found).float().mean(1), torch.full((2,), 0.255), atol=0.03, rtol=0)
    assert kept(0.0, 0).all() and (kept(0.99, 0).sum(0) == 1).float().mean() > 0.97
    assert drop_kinds({"text": rows}, 0.9)["text"] is rows


def test_drops_come_from_the_generator_in_use() -> None:
    given = inputs()
    draws = []
    for _ in range(2):
        torch.manual_seed(7)
        draws.append([drop_kinds(given, 0.5)["text"].lengths.tolist() for _ in range(8)])
    assert draws[0] == draws[1] and len({tuple(one) for one in draws[0]}) > 1


def test_the_spread_is_the_deviation_over_samples_beside_the_tokens_size() -> None:
    tokens = torch.randn(3, 4, 2, dtype=torch.float64)
    whole = Tokens(tokens, torch.full((3,), 4))
    expected = (tokens - tokens.mean(0)).square().sum() / tokens.square().sum()
    assert spread(whole) == pytest.approx(float(expected) ** 0.5)
    assert float(spread(Tokens(tokens[:1].expand(3, -1, -1), whole.lengths))) == pytest.approx(0, abs=1e-6)
    padded = torch.cat([tokens, torch.full((3, 2, 2), 9.0)], 1)
    assert spread(Tokens(padded, whole.lengths)) == pytest.approx(float(expected) ** 0.5)  # padding does not count


def test_each_kind_s_spread_is_its_own() -> None:
    net, given = encoder(), inputs()
    with torch.no_grad():
        net.part("pose").project.weight.zero_()  # collapsed: the same token whatever the pose
        found = spreads(net, given)
    assert list(found) == ["text", "pose"] and found["pose"] < 1e-6 < 0.3 < found["text"]
    assert list(spreads(net, without(without(given, "pose", 0), "pose", 1))) == ["text"]  # one pose has no deviation
