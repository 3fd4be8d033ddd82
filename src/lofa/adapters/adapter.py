"""Adapters: low-rank updates of many layers of one backbone, and their stacks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from lofa.adapters.formats import read_adapter, write_adapter
from lofa.adapters.lowrank import AdapterBatch, LowRank, LowRankBatch

__all__ = ["Adapter", "stack_adapters", "unstack"]


class Adapter(Mapping[str, LowRank]):
    """A read-only mapping from layer name ("transformer.blocks.0.attn1.to_q") to `LowRank`.

    Args:
        layers: layer name -> pair
        metadata: strings that files keep (rank, backbone fingerprint, prompt ...)
    """

    def __init__(self, layers: Mapping[str, LowRank], metadata: Mapping[str, str] | None = None) -> None:
        self._layers = dict(layers)
        self.metadata: dict[str, str] = dict(metadata or {})

    def __getitem__(self, name: str) -> LowRank:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        ranks = sorted({pair.rank for pair in self.values()})
        return f"Adapter({len(self)} layers, rank {', '.join(map(str, ranks)) or '-'})"

    def delta_weight(self, name: str) -> Tensor:
        """`alpha * B @ A` (out, in) of the layer (KeyError where it has none)."""
        return self[name].delta_weight()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Adapter":
        """A copy on another device or with A and B in another precision."""
        return Adapter({name: pair.to(device, dtype) for name, pair in self.items()}, self.metadata)

    def reduced(self, rank: int) -> "Adapter":
        """The nearest adapter of at most that rank, layer by layer (`LowRank.reduced`)."""
        pairs = {name: pair.reduced(rank) for name, pair in self.items()}
        return Adapter(pairs, self.metadata | {"rank": str(max((pair.rank for pair in pairs.values()), default=0))})

    def norm(self) -> float:
        """Frobenius norm of all delta weights together."""
        return math.hypot(*(pair.norm() for pair in self.values()))

    def distance(self, other: Mapping[str, LowRank]) -> float:
        """Relative Frobenius distance to another adapter over all layers of both: |other - self| / |self|.

        A layer that one lacks is zero there. 0 where both are zero, infinity where this one alone is.
        """
        names = dict.fromkeys((*self, *other))
        off = math.hypot(*(_difference(self.get(name), other.get(name)) for name in names))
        own = self.norm()
        return off / own if own else (math.inf if off else 0.0)

    def save(
        self,
        path: str | Path,
        format: str = "diffusers",
        dtype: torch.dtype | None = None,
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes the adapter, each file whole or not at all, and returns their paths: `path` alone, or one a component.

        Formats other than "diffusers" hold layers of one pipeline component, so an adapter of both experts of Wan 2.2
        becomes the pair of files that such tools take: "x-high.safetensors" and "x-low.safetensors".

        Args:
            path: the file (.safetensors; "reference": .pth) or folder ("peft") to write
            format: the name of a file format: "diffusers", "comfyui", "kohya", "peft" or "reference"
            dtype: precision of the stored A and B, torch.float8_e4m3fn too; None keeps theirs
            overwrite: replace a file that stands there ("peft": a folder of PEFT's two files), nothing else ever

        Raises:
            AdapterFormatError: an unknown format, or one that can't hold this adapter.
            TargetError: something stands there that is not to be replaced.
            WriteError: the disk is full or read only.
        """
        return write_adapter(path, self, self.metadata, format, dtype, overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads an adapter of any format; which one is seen from the file. float8 comes as float32.

        Raises:
            AdapterFormatError: a missing, unknown, damaged or foreign file, or one holding NaN or infinity.
        """
        return cls(*read_adapter(path))


def _difference(one: LowRank | None, other: LowRank | None) -> float:
    """Frobenius norm of the difference of two delta weights, through the pair of both ranks together."""
    if one is None or other is None:
        present = one or other
        return 0.0 if present is None else present.norm()
    A = torch.cat([one.A.double(), other.A.double()])
    B = torch.cat([one.scaled_B.double(), -other.scaled_B.double()], dim=1)
    return LowRank(A, B, torch.tensor(1.0)).norm()


def stack_adapters(adapters: Sequence[Mapping[str, LowRank]]) -> dict[str, LowRankBatch]:
    """Stacks N adapters layer by layer; a smaller rank is padded with zeros, a layer that one lacks is zeros there.

    Raises:
        ValueError: no adapters, or two that have different shapes for a layer.
    """
    if not adapters:
        raise ValueError("no adapters to stack")
    names = dict.fromkeys(name for adapter in adapters for name in adapter)
    return {name: _stack_layer(name, [adapter.get(name) for adapter in adapters]) for name in names}


def _stack_layer(name: str, pairs: Sequence[LowRank | None]) -> LowRankBatch:
    present = [pair for pair in pairs if pair is not None]
    sizes = {(pair.B.shape[0], pair.A.shape[1]) for pair in present}
    if len(sizes) > 1:
        raise ValueError(f"{name}: the adapters are for layers of different sizes {sorted(sizes)}")
    rank, like = max(pair.rank for pair in present), present[0]
    none = LowRank(like.A[:0], like.B[:, :0], torch.zeros_like(like.alpha))
    filled = [none if pair is None else pair for pair in pairs]
    return LowRankBatch(
        torch.stack([torch.nn.functional.pad(pair.A, (0, 0, 0, rank - pair.rank)) for pair in filled]),
        torch.stack([torch.nn.functional.pad(pair.B, (0, rank - pair.rank)) for pair in filled]),
        torch.stack([pair.alpha for pair in filled]),
    )


def unstack(batch: AdapterBatch, metadata: Mapping[str, str] | None = None) -> list[Adapter]:
    """Takes a stack of N adapters apart: N adapters, detached views of the stack, each with `metadata`."""
    held = {name: LowRankBatch(p.A.detach(), p.B.detach(), p.alpha.detach()) for name, p in batch.items()}
    count = len(next(iter(held.values())))
    return [Adapter({name: pair[n] for name, pair in held.items()}, metadata) for n in range(count)]
