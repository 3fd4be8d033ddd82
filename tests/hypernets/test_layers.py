"""W is read in chunks: each matrix once, for all networks, and nothing of it is kept for backward but W itself."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lofa.hypernets import FrozenLayer
from lofa.hypernets import layers as layers_file
from lofa.hypernets.layers import prepare
from tests.hypernets.nets import Inputs, adapter_net, response_net

SHAPES = [[12, 8], [8, 12], [8, 8]]


def mixed() -> list[FrozenLayer]:
    """Layers of three shapes in turn."""
    inputs = Inputs.make()
    sizes = [(12, 8), (8, 12), (8, 8)] * 2
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=draw).double() for size in sizes]
    ids = zip(weights, inputs.depth.tolist(), inputs.kind.tolist(), strict=True)
    return [FrozenLayer(f"layer.{number}", *own) for number, own in enumerate(ids)]


@pytest.mark.parametrize("entries", [1, 200, 10**6], ids=["a layer", "two", "all"])
def test_chunks_do_not_matter(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the tokens, which come shape by shape in the order of the first layers, nor to the gradients."""
    net, found = adapter_net(shapes=SHAPES), []
    for chunk in (10**6, entries):
        monkeypatch.setattr(layers_file, "_CHUNK", chunk)
        (made,) = prepare([net], iter(mixed()))
        assert [one.shape for one in made] == [(12, 8), (8, 12), (8, 8)]
        assert [one.layers for one in made] == [(f"layer.{i}", f"layer.{i + 3}") for i in range(3)]
        net.zero_grad()
        sum(one.tokens.square().sum() for one in made).backward()
        gradients = [p.grad.clone() for p in net.trunk.tiles.parameters()]
        found.append([*(one.tokens.detach() for one in made), *gradients])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-14)


def test_each_matrix_is_read_once_and_let_go_before_the_next_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_file, "_CHUNK", 200)  # two layers of 12 x 8
    alive: list[list[int]] = []
    nets = response_net(), adapter_net()
    known: dict[int, int] = {}

    def read() -> Iterator[FrozenLayer]:
        import weakref

        there: set[int] = set()
        for number, layer in enumerate(Inputs.make().frozen()):
            weight = layer.weight.clone()
            there.add(number)
            weakref.finalize(weight, there.discard, number)
            known[number] = known.get(number, 0) + 1
            yield replace(layer, weight=weight)
            del weight
            alive.append(sorted(there))

    with torch.no_grad():
        prepare(nets, read())
    assert known == dict.fromkeys(range(6), 1)
    assert max(map(len, alive)) <= 3, alive


def test_nothing_of_the_weights_is_kept_for_backward_but_themselves() -> None:
    net, layers = adapter_net(), Inputs.make().frozen()
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        tokens = net.embed(layers)
    assert tokens.requires_grad
    own = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    large = [value for value in kept if value.numel() >= layers[0].weight.numel()]
    assert all(value.untyped_storage().data_ptr() in own for value in large), [tuple(value.shape) for value in large]
