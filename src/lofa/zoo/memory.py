"""How much memory a computation takes, and how much there is."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["free_memory", "peak_memory"]

_SHARE = {"cuda": 0.85, "cpu": 0.5}  # a CPU's memory is shared with other programs, and nothing but a kill says no


def free_memory(device: torch.device) -> int:
    """Bytes that a computation on `device` may take, with room to spare."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(_SHARE["cuda"] * (torch.cuda.mem_get_info(device)[0] + cached))
    return int(_SHARE["cpu"] * psutil.virtual_memory().available)


def peak_memory(function: Callable[[], object]) -> int:
    """Bytes of the tensors made by `function()` that exist at once, at their most; the same on every device.

    What a kernel takes for itself alone is not seen.
    """
    with _Tensors() as tensors:
        function()
    return tensors.peak


class _Tensors(TorchDispatchMode):
    """Follows the storages of all tensors that are made, from the first to the last use."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if id(storage) in given or storage in self.known:
                continue
            size = storage.nbytes()
            self.known.add(storage)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)
        return made
