import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lofa.adapters import LowRankBatch, Slots, own_rows
from tests.helpers.threads import in_threads

LAYERS = {"net.first": "0", "net.last": "2.inner"}


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.GELU(), Wrapper()).double().requires_grad_(False)


def adapters(count: int, rank: int = 2, seed: int = 1) -> dict[str, LowRankBatch]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        name: LowRankBatch(draw(count, rank, inner), draw(count, out, rank), draw(count))
        for name, (out, inner) in {"net.first": (6, 5), "net.last": (4, 6)}.items()
    }


def merged(network: nn.Module, batch: dict[str, LowRankBatch], n: int) -> nn.Module:
    """The network with adapter n added to its weights."""
    copied = copy.deepcopy(network)
    for name, pair in batch.items():
        copied.get_submodule(LAYERS[name]).weight.add_(pair[n].delta_weight().detach())
    return copied


def test_slots_change_neither_names_nor_results(network: nn.Module) -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    before, parameters, y = list(network.state_dict()), list(network.parameters()), network(x)
    modules = dict(network.named_modules())
    slots = Slots(network, LAYERS)
    assert list(network.state_dict()) == before
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert torch.equal(network(x), y)
    slots.remove()
    assert dict(network.named_modules()) == modules


@pytest.mark.parametrize(("count", "rows"), [(1, 6), (2, 6), (6, 6)])
def test_groups_of_rows_go_through_their_adapter(network: nn.Module, count: int, rows: int) -> None:
    x = torch.randn(rows, 3, 5, dtype=torch.float64)
    batch = adapters(count)
    expected = torch.cat([merged(network, batch, n)(part) for n, part in enumerate(x.chunk(count))])
    slots = Slots(network, LAYERS)
    with slots.attached(batch, torch.arange(rows) * count // rows):
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    "chosen",
    [[2, 0, 0, 1, 2], [1, 1, 2, 2], [3, 3, 3], [0, 2, 0, 2], [1, 1, 1, 2], [3, 2, 1, 0], [0, 0, 3, 3], [0, 1, 3]],
    ids=str,
)
def test_rows_choose_their_adapter(network: nn.Module, chosen: list[int]) -> None:
    x, rows = torch.randn(len(chosen), 3, 5, dtype=torch.float64), torch.tensor(chosen)
    batch = adapters(4)
    expected = torch.cat([merged(network, batch, n)(x[i : i + 1]) for i, n in enumerate(chosen)])
    slots = Slots(network, LAYERS)
    with slots.attached(batch, rows):
        torch.testing.assert_close(network(x), expected)


def test_layers_without_an_adapter_stay_and_nesting_restores(network: nn.Module) -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    slots = Slots(network, LAYERS)
    bare, outer, both = network(x), adapters(1), torch.zeros(2, dtype=torch.int64)
    inner = {"net.last": adapters(1, seed=3)["net.last"]}
    with_inner = merged(network, inner, 0)(x)
    with slots.attached(outer, both):
        with_outer = network(x)
        with slots.attached(inner, both):
            torch.testing.assert_close(network(x), with_inner)
        with slots.attached({}, both):
            assert torch.equal(network(x), bare)
        assert torch.equal(network(x), with_outer)
        with pytest.raises(KeyError), slots.attached(inner, both):
            raise KeyError
        assert torch.equal(network(x), with_outer)
    assert torch.equal(network(x), bare)


def gradients(run: Callable[[], Tensor], batch: dict[str, LowRankBatch]) -> list[Tensor]:
    tensors = [tensor for pair in batch.values() for tensor in (pair.A, pair.B, pair.alpha)]
    return list(torch.autograd.grad(run(), tensors))


def test_gradients_reach_a_b_alpha_and_are_right(network: nn.Module) -> None:
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    batch = adapters(2)
    plain = copy.deepcopy(network)

    def by_merging() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for n, part in enumerate(x.chunk(2)):
            weights = {
                f"{LAYERS[name]}.weight": plain.get_submodule(LAYERS[name]).weight + pair[n].delta_weight()
                for name, pair in batch.items()
            }
            total = total + torch.func.functional_call(plain, weights, (part,)).square().sum()
        return total

    slots = Slots(network, LAYERS)

    def by_slots() -> Tensor:
        with slots.attached(batch, torch.tensor([0, 0, 1, 1])):
            return network(x).square().sum()

    for ours, theirs in zip(gradients(by_slots, batch), gradients(by_merging, batch), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_checkpointed_gradients_are_plain_gradients_after_detaching(network: nn.Module) -> None:
    """The recomputation happens when the block has ended, or when something else is attached."""
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    batch, other = adapters(2), adapters(4, seed=9)
    slots = Slots(network, LAYERS)

    def plain() -> Tensor:
        with slots.attached(batch, torch.tensor([1, 0, 1, 1])):
            return network(x).square().sum()

    def checkpointed() -> Tensor:
        with slots.attached(batch, torch.tensor([1, 0, 1, 1])):
            return slots.checkpoint(network, x).square().sum()

    expected = gradients(plain, batch)
    assert all(torch.equal(a, b) for a, b in zip(gradients(checkpointed, batch), expected, strict=True))
    loss = checkpointed()
    with_other = torch.cat([merged(network, other, n)(x[n : n + 1]) for n in range(4)])
    with slots.attached(other, torch.arange(4)):
        tensors = [tensor for pair in batch.values() for tensor in (pair.A, pair.B, pair.alpha)]
        assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(loss, tensors), expected, strict=True))
        torch.testing.assert_close(network(x), with_other)


def test_half_precision_inputs_and_autocast(network: nn.Module) -> None:
    slots = Slots(network.float(), LAYERS)
    x = torch.randn(2, 3, 5)
    batch = {name: pair.to(dtype=torch.float32) for name, pair in adapters(2).items()}
    with slots.attached(batch, torch.arange(2)):
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert network(x).dtype == torch.bfloat16
            torch.testing.assert_close(network(x).float(), exact, rtol=0.05, atol=0.1)
        network.to(torch.bfloat16)
        torch.testing.assert_close(network(x.bfloat16()).float(), exact, rtol=0.05, atol=0.1)


def test_misuse_is_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="no module"):
        Slots(network, {"a": "7"})
    with pytest.raises(ValueError, match="GELU"):
        Slots(network, {"a": "1"})
    slots = Slots(network, LAYERS)
    batch, rows = adapters(2), torch.arange(2)
    with pytest.raises(ValueError, match="SlotLinear, not a plain"):
        Slots(network, LAYERS)
    with pytest.raises(ValueError, match="no slot"), slots.attached({"net.other": batch["net.first"]}, rows):
        pass
    for wrong in ([0, 2], [-1, 0]):
        with (
            pytest.raises(ValueError, match=f"{min(wrong)} to {max(wrong)}"),
            slots.attached(batch, torch.tensor(wrong)),
        ):
            pass
    several = {"net.first": batch["net.first"], "net.last": adapters(3)["net.last"]}
    with pytest.raises(ValueError, match=r"\[2, 3\]"), slots.attached(several, rows):
        pass
    with pytest.raises(ValueError, match="2 adapters for 3 batch rows"):
        own_rows(batch, 3)


@pytest.mark.parametrize(("batch", "rows"), [(6, 3), (6, 2), (3, 6), (4, 1)])
def test_rows_of_another_number_than_the_batch_are_refused(network: nn.Module, batch: int, rows: int) -> None:
    slots = Slots(network, LAYERS)
    chosen = torch.zeros(rows, dtype=torch.int64)
    with slots.attached(adapters(2), chosen), pytest.raises(ValueError, match=f"{batch} batch rows"):
        network(torch.randn(batch, 3, 5, dtype=torch.float64))


class Meeting(nn.Module):
    """Between two layers each thread waits until the other is there."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait(timeout=20)
        return x


def test_two_threads_run_one_network_under_two_adapters(network: nn.Module) -> None:
    x, batch = torch.randn(2, 5, dtype=torch.float64), adapters(2)
    expected = [merged(network, batch, n)(x) for n in range(2)]
    meeting = Meeting()
    network[1] = nn.Sequential(network[1], meeting)
    slots = Slots(network, LAYERS)
    found: dict[int, Tensor] = {}

    def run(n: int) -> None:
        with slots.attached(batch, torch.full((2,), n)):
            meeting.barrier.wait(timeout=20)  # both are attached before either computes
            found[n] = network(x)

    in_threads([lambda: run(0), lambda: run(1)])
    for n in range(2):
        torch.testing.assert_close(found[n], expected[n])


def test_recomputation_in_another_thread_has_the_adapters_of_the_forward_pass(network: nn.Module) -> None:
    """On a GPU, backward runs in a thread of autograd's own."""
    x, batch = torch.randn(4, 3, 5, dtype=torch.float64), adapters(2)
    slots = Slots(network, LAYERS)

    def loss(checkpointed: bool) -> Tensor:
        with slots.attached(batch, torch.tensor([1, 0, 1, 1])):
            return (slots.checkpoint(network, x) if checkpointed else network(x)).square().sum()

    expected, recomputed = gradients(lambda: loss(False), batch), loss(True)
    found: list[Tensor] = []
    in_threads([lambda: found.extend(gradients(lambda: recomputed, batch))])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
