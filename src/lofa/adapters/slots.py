"""Slots: the one mechanism that puts low-rank updates on a frozen network.

A slot stands in the module tree where an `nn.Linear` stood, and shares its weight and bias. While N adapters are
attached, batch row b of an input `x` goes through adapter `n = rows[b]`:

    y_b = W x_b + bias + alpha_n B_n (A_n x_b)

so one forward pass runs N different adapters; `A`, `B`, `alpha` may be parameters, a network's output with gradient,
or loaded tensors.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lofa.adapters.lowrank import AdapterBatch

__all__ = ["SlotLinear", "Slots"]


@dataclass(frozen=True, eq=False)
class _Attachment:
    """What is attached now: layer name -> (A (N, r, in), alpha * B transposed (N, r, out)); rows (batch rows,) -> n."""

    pairs: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    rows: Tensor | None = None


@dataclass(eq=False)
class _Holder:
    """Shared by a `Slots` and its `SlotLinear`s, so that attaching is one assignment whatever the number of layers."""

    attachment: _Attachment


class SlotLinear(nn.Linear):
    """An `nn.Linear` with room for adapters; weight and bias are the very parameters of the layer it replaces."""

    def __init__(self, linear: nn.Linear, name: str, holder: _Holder) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        self.name = name
        self._holder = holder

    def forward(self, x: Tensor) -> Tensor:
        """(B, ..., in) -> (B, ..., out).

        Raises:
            ValueError: the batch rows can't be divided among the attached adapters.
        """
        y = super().forward(x)
        pair = self._holder.attachment.pairs.get(self.name)
        if pair is None:
            return y
        A, B = pair
        rows = self._holder.attachment.rows
        if rows is not None:
            A, B = A[rows], B[rows]
        if x.shape[0] % A.shape[0] or (rows is not None and x.shape[0] != A.shape[0]):
            raise ValueError(f"{self.name}: {x.shape[0]} batch rows can't be divided among {A.shape[0]} adapters")
        groups = (A.shape[0], -1)
        down = torch.bmm(x.reshape(*groups, x.shape[-1]), A.to(x.dtype).transpose(1, 2))
        return torch.baddbmm(y.reshape(*groups, y.shape[-1]), down, B.to(x.dtype)).reshape(y.shape)


class Slots:
    """The slots of a network.

    Args:
        root: the module whose tree is rewritten
        layers: layer name -> path of its `nn.Linear` below `root`

    Raises:
        ValueError: a path that is no `nn.Linear` of `root`.
    """

    def __init__(self, root: nn.Module, layers: Mapping[str, str]) -> None:
        self._root = root
        self._paths = dict(layers)
        self._holder = _Holder(_Attachment())
        self._replaced: dict[str, nn.Linear] = {}
        for name, path in self._paths.items():
            try:
                module = root.get_submodule(path)
            except AttributeError:
                raise ValueError(f"layer {name}: {type(root).__name__} has no module {path!r}") from None
            if not isinstance(module, nn.Linear):
                raise ValueError(f"layer {name}: {path!r} is a {type(module).__name__}, not an nn.Linear")

    @property
    def names(self) -> tuple[str, ...]:
        """The layer names."""
        return tuple(self._paths)

    @property
    def installed(self) -> bool:
        """Whether the slots stand in the tree."""
        return bool(self._replaced)

    def install(self) -> None:
        """Puts a `SlotLinear` in the place of every layer; without adapters the network computes what it did before.

        Raises:
            ValueError: a layer is no plain `nn.Linear` any more: it has another slot, or PEFT wrapped it.
        """
        if self.installed:
            return
        for name, path in self._paths.items():
            linear = self._root.get_submodule(path)
            if not isinstance(linear, nn.Linear) or isinstance(linear, SlotLinear):
                raise ValueError(f"layer {name}: {path!r} is a {type(linear).__name__} now, other slots hold it")
            self._replaced[name] = linear
            self._put(path, SlotLinear(linear, name, self._holder))

    def remove(self) -> None:
        """Puts the plain layers back, with the parameters as they are now.

        Raises:
            ValueError: somebody (PEFT) has put another layer in a slot's place.
        """
        for name, linear in self._replaced.items():
            slot = self._root.get_submodule(self._paths[name])
            if not isinstance(slot, SlotLinear):
                raise ValueError(f"layer {name}: its slot was replaced by a {type(slot).__name__}; undo that first")
            linear.weight, linear.bias = slot.weight, slot.bias
            self._put(self._paths[name], linear)
        self._replaced = {}

    def _put(self, path: str, module: nn.Module) -> None:
        parent, _, attribute = path.rpartition(".")
        setattr(self._root.get_submodule(parent), attribute, module)

    @contextmanager
    def attached(self, batch: AdapterBatch | None, rows: Tensor | None = None) -> Iterator[None]:
        """Attaches N adapters for the time of the block; what was attached before comes back after it.

        Args:
            batch: layer name -> N pairs; layers not in it stay as they are; None attaches nothing
            rows: (batch rows,) int64, the adapter of each batch row; None: the rows fall into N equal groups that
                follow each other (N = 1: all rows share the adapter)

        Raises:
            ValueError: a layer without a slot, or pairs that don't fit the layer.
            RuntimeError: the slots are not installed.
        """
        with self._holding(self._attachment(batch or {}, rows)):
            yield

    def _attachment(self, batch: AdapterBatch, rows: Tensor | None) -> _Attachment:
        if batch and not self.installed:
            raise RuntimeError("the slots are not installed: call install() first")
        pairs = {}
        for name, pair in batch.items():
            slot = self._replaced.get(name)
            if slot is None:
                raise ValueError(
                    f"no slot for layer {name!r}; there are {len(self._paths)}, from {next(iter(self._paths))!r} on"
                )
            if pair.A.shape[2] != slot.in_features or pair.B.shape[1] != slot.out_features:
                raise ValueError(
                    f"{name} is a layer of ({slot.out_features}, {slot.in_features}); the adapter is for one of "
                    f"({pair.B.shape[1]}, {pair.A.shape[2]})"
                )
            pairs[name] = (pair.A, (pair.alpha[:, None, None] * pair.B).transpose(1, 2))
        return _Attachment(pairs, rows)

    @contextmanager
    def _holding(self, attachment: _Attachment) -> Iterator[None]:
        before, self._holder.attachment = self._holder.attachment, attachment
        try:
            yield
        finally:
            self._holder.attachment = before

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Activation checkpointing of `function(*args)` that knows the adapters.

        Backward usually comes after the `attached` block has ended; the recomputation then attaches again what was
        attached at the forward pass. Fits diffusers' `enable_gradient_checkpointing(slots.checkpoint)`.
        """
        attachment = self._holder.attachment

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self._holding(attachment)

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)
