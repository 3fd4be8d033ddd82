"""Slots: the one mechanism that puts low-rank updates on a frozen network.

A slot stands in the module tree where an `nn.Linear` stood, and shares its weight and bias. While N adapters are
attached, batch row b of an input `x` goes through adapter `n = rows[b]`:

    y_b = W x_b + bias + alpha_n B_n (A_n x_b)

so one forward pass runs N different adapters; `A`, `B`, `alpha` may be parameters, a network's output with gradient,
or loaded tensors. What is attached belongs to the context (thread or task) that attached it, not to the network: two
threads run one network under different adapters.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.adapters.lowrank import AdapterBatch

__all__ = ["SlotLinear", "Slots", "own_rows"]


@dataclass(frozen=True, eq=False)
class _Attachment:
    """N adapters for the rows of a batch.

    Attributes:
        pairs: layer name -> (A (N, r, in), alpha * B transposed (N, r, out))
        count: batch rows
        rows: (count,) the adapter of each row; None where they fall into N equal groups in order: nothing is gathered
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    count: int
    rows: Tensor | None


_ATTACHED: ContextVar[Mapping[object, _Attachment]] = ContextVar("attached", default=MappingProxyType({}))
"""Attachments of this context: one entry a `Slots`, whatever the number of layers."""


def own_rows(batch: AdapterBatch, count: int) -> Tensor:
    """The adapter of each of `count` batch rows (count,) where there is one for all, one a row, or none.

    Raises:
        ValueError: another number of adapters.
    """
    adapters = len(next(iter(batch.values()))) if batch else 1
    if adapters not in (1, count):
        raise ValueError(f"{adapters} adapters for {count} batch rows: rows= has to say which row has which")
    return torch.arange(count) if adapters == count else torch.zeros(count, dtype=torch.int64)


class SlotLinear(nn.Linear):
    """An `nn.Linear` with room for adapters; weight and bias are the very parameters of the layer it replaces."""

    def __init__(self, linear: nn.Linear, name: str, slots: object) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self.name = name
        self._slots = slots

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out).

        Raises:
            ValueError: another number of batch rows than adapters were attached for.
        """
        y = super().forward(x)
        attachment = _ATTACHED.get().get(self._slots)
        if attachment is None or self.name not in attachment.pairs:
            return y
        if x.shape[0] != attachment.count:
            raise ValueError(f"{self.name}: {x.shape[0]} batch rows, adapters are attached for {attachment.count}")
        A, B = attachment.pairs[self.name]
        if attachment.rows is not None:
            A, B = A[attachment.rows], B[attachment.rows]
        groups = (A.shape[0], -1)
        down = torch.bmm(x.reshape(*groups, x.shape[-1]), A.to(x.dtype).transpose(1, 2))
        return torch.baddbmm(y.reshape(*groups, y.shape[-1]), down, B.to(x.dtype)).reshape(y.shape)


class Slots:
    """A `SlotLinear` in the place of every layer; without adapters the network computes what it did before.

    Args:
        root: the module whose tree is rewritten
        layers: layer name -> path of its `nn.Linear` below `root`

    Raises:
        ValueError: a path that is no plain `nn.Linear` of `root`.
    """

    def __init__(self, root: nn.Module, layers: Mapping[str, str]) -> None:
        self._root, self._names, self._key = root, layers.keys(), object()
        self._replaced: dict[str, nn.Linear] = {}
        for name, path in layers.items():
            try:
                linear = root.get_submodule(path)
            except AttributeError:
                raise ValueError(f"layer {name}: {type(root).__name__} has no module {path!r}") from None
            if not isinstance(linear, nn.Linear) or isinstance(linear, SlotLinear):
                raise ValueError(f"layer {name}: {path!r} is a {type(linear).__name__}, not a plain nn.Linear")
            self._replaced[path] = linear
            root.set_submodule(path, SlotLinear(linear, name, self._key))

    def remove(self) -> None:
        """Puts the plain layers back, for good."""
        for path, linear in self._replaced.items():
            self._root.set_submodule(path, linear)

    @contextmanager
    def attached(self, batch: AdapterBatch, rows: Tensor) -> Iterator[None]:
        """Attaches N adapters for the time of the block in this context; what was attached before comes back after it.

        Args:
            batch: layer name -> N pairs; layers not in it stay as they are; an empty one attaches nothing
            rows: (batch rows,) int64, the adapter of each batch row. They are looked at here: on the CPU that costs
                nothing, on a GPU it waits for it

        Raises:
            ValueError: a layer without a slot, rows of adapters that there are not, or layers with different numbers
                of them.
        """
        unknown = batch.keys() - self._names
        if unknown:
            raise ValueError(f"no slot for {len(unknown)} layers, {min(unknown)!r} among them")
        with self._holding(_attachment(batch, rows.cpu()) if batch else None):
            yield

    @contextmanager
    def _holding(self, attachment: _Attachment | None) -> Iterator[None]:
        others = {key: held for key, held in _ATTACHED.get().items() if key is not self._key}
        token = _ATTACHED.set(others if attachment is None else {**others, self._key: attachment})
        try:
            yield
        finally:
            _ATTACHED.reset(token)

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Activation checkpointing of `function(*args)` that knows the adapters.

        Backward usually comes after the `attached` block has ended, on a GPU in another thread; the recomputation
        attaches again what was attached at the forward pass. Fits diffusers'
        `enable_gradient_checkpointing(slots.checkpoint)`.
        """
        attachment = _ATTACHED.get().get(self._key)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._holding(attachment)

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _attachment(batch: AdapterBatch, rows: Tensor) -> _Attachment:
    counts = {len(pair) for pair in batch.values()}
    first, last = int(rows.min()), int(rows.max())
    if len(counts) > 1 or first < 0 or last >= max(counts):
        raise ValueError(f"rows name the adapters {first} to {last}, the layers have {sorted(counts)} of them")
    groups = last - first + 1
    grouped = torch.equal(rows, first + torch.arange(len(rows)) * groups // len(rows)) and not len(rows) % groups
    chosen = slice(first, last + 1) if grouped else slice(None)
    pairs = {}
    for name, pair in batch.items():
        A, B, alpha = pair.A[chosen], pair.B[chosen], pair.alpha[chosen]
        pairs[name] = (A, (alpha[:, None, None] * B).transpose(1, 2))
    return _Attachment(pairs, len(rows), None if grouped else rows.to(A.device))
