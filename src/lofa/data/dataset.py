"""Prompts paired with their LoRAs, read from files when a batch is asked for: memory does not grow with the zoo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lofa.adapters import LoraBatch
from lofa.backbones import Fingerprinted, LayerSpec, by_shape
from lofa.conditions import Condition, ConditionKind, Inputs, drop_kinds
from lofa.data.sampler import BatchKey
from lofa.data.samples import LATENTS, Sample, prompt_of, read_encoded
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError
from lofa.paths import Place

__all__ = ["ZooBatch", "ZooDataset"]


@dataclass(frozen=True)
class ZooBatch:
    """What training takes: P prompts paired with precomputed LoRAs."""

    ids: list[str]
    """P ids of the samples the LoRAs are anchored at"""
    inputs: Inputs
    """kind of condition -> what its encoder takes: text tokens (P, N, C), joints (P, T, J, 2) ..."""
    prompt: Condition
    """the backbone's text condition of the same P clips"""
    latents: Tensor | None
    """(P, C, T, H, W); None where only LoRAs are asked for (stage I)"""
    stacks: list[LoraBatch]
    """the LoRAs, the layers of each shape by themselves; smaller ranks are padded with zeros"""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> "ZooBatch":
        """Every tensor on another device."""
        return replace(
            self,
            inputs={kind: rows.to(device) for kind, rows in self.inputs.items()},
            prompt=self.prompt.to(device),
            latents=None if self.latents is None else self.latents.to(device),
            stacks=[replace(s, A=s.A.to(device), B=s.B.to(device), alpha=s.alpha.to(device)) for s in self.stacks],
        )


@dataclass(eq=False)
class ZooDataset(Dataset[ZooBatch]):
    """One item a LoRA; asked for a `BatchKey` it reads the batch.

    A LoRA stands for its group, so prompt and latents may be those of a sibling (another sample of the group, same
    split and shape) while the LoRA stays the anchor's.
    """

    set_dir: Place
    layers: Sequence[LayerSpec]
    """the backbone's"""
    backbone: Fingerprinted
    """the one in use"""
    kinds: Sequence[ConditionKind]
    """of conditions that the hypernetwork is given"""
    pool: Sequence[Sample]
    """samples that may be siblings; the anchors belong to it"""
    layers_per_sample: int | None
    """layers drawn for each batch, at least one of each shape; None for all"""
    with_latents: bool
    """whether latents are read"""
    anchors: Sequence[Sample]
    """the samples whose LoRAs are the items"""
    siblings: bool
    """whether a sibling is drawn for each anchor"""
    drop: float
    """how often a sample goes without a condition, where there are several"""

    def __post_init__(self) -> None:
        self.shapes, self.store = list(by_shape(self.layers).values()), ZooStore(self.set_dir)
        if self.layers_per_sample is not None and self.layers_per_sample < len(self.shapes):
            raise DataError(
                f"layers_per_sample={self.layers_per_sample}: one layer of each of the backbone's {len(self.shapes)} "
                "shapes is drawn at least"
            )
        groups: dict[tuple[object, ...], list[Sample]] = {}
        for sample in self.pool:
            groups.setdefault(_group(sample), []).append(sample)
        self.candidates = [groups[_group(anchor)] if self.siblings else [anchor] for anchor in self.anchors]

    def __len__(self) -> int:
        return len(self.anchors)

    def bucket(self, item: int) -> tuple[int, int, int]:
        """Items of one bucket have latents of one shape: frames, height, width of the clip."""
        anchor = self.anchors[item]
        return (anchor.frames, *anchor.size)

    def __getitem__(self, key: BatchKey) -> ZooBatch:
        """Reads one batch (DataError naming the file where something is wrong)."""
        anchors = [self.anchors[item] for item in key.items]
        drawn = [
            self.candidates[item][np.random.default_rng(seed).integers(len(self.candidates[item]))]
            for item, seed in zip(key.items, key.item_seeds, strict=True)
        ]
        wanted = [kind.key for kind in self.kinds] + [LATENTS] * self.with_latents
        encoded = [read_encoded(self.set_dir, sample, self.backbone, wanted) for sample in drawn]
        inputs = {kind.name: kind.collate([one.conditions[kind.name] for one in encoded]) for kind in self.kinds}
        rng = np.random.default_rng((2, *chain.from_iterable(key.item_seeds)))  # so that a resumed run drops the same
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        latents = [one.latents for one in encoded if one.latents is not None]
        layers = self._draw_layers(key)
        groups = [[self.layers[index].name for index in shape if index in layers] for shape in self.shapes]
        return ZooBatch(
            ids=[anchor.id for anchor in anchors],
            inputs=drop_kinds(inputs, self.drop, generator),
            prompt=prompt_of(encoded),
            latents=torch.stack(latents) if latents else None,
            stacks=self.store.stacks([anchor.id for anchor in anchors], groups, self.backbone),
        )

    def _draw_layers(self, key: BatchKey) -> set[int]:
        if self.layers_per_sample is None:
            return set(range(len(self.layers)))
        rng = np.random.default_rng((1, *key.seed))
        order = rng.permutation(len(self.layers)).tolist()
        # one of every shape first, so that every head has its part in every batch, as DDP wants it
        first = [next(index for index in order if index in shape) for shape in self.shapes]
        rest = [index for index in order if index not in first]
        return {*first, *rest[: self.layers_per_sample - len(first)]}


def _group(sample: Sample) -> tuple[object, ...]:
    return (sample.split, sample.group, sample.frames, sample.size)
