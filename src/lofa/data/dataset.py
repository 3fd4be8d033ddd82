"""Prompts paired with their LoRAs, read from files when a batch is asked for: memory does not grow with the zoo."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lofa.conditions import Condition, pad_rows
from lofa.data.batch import ZooBatch
from lofa.data.sampler import BatchKey
from lofa.data.samples import LATENTS, POSE, TEXT, Sample, read_encoded
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError

__all__ = ["CONDITIONS", "ZooDataset"]

CONDITIONS = {"text": TEXT, "pose": POSE}
"""Name of a condition -> its tensor in the encoded files."""


class ZooDataset(Dataset[ZooBatch]):
    """One item a LoRA; asked for a `BatchKey` it reads the batch.

    A LoRA stands for its group, so a sibling (another sample of the group, same split and shape) may lend the prompt
    and the latents while the LoRA stays the anchor's.

    Args:
        set_dir: folder of the set
        anchors: the samples whose LoRAs are the items
        pool: samples that may lend prompts and latents; the anchors belong to it
        layers: names of the layers, which `ZooBatch.layers` counts
        fingerprint: of the backbone in use
        condition: "text" or "pose", what the hypernetwork is given
        layers_per_sample: layers drawn for each batch, None for all
        with_latents: whether latents are read
        siblings: whether siblings lend
    """

    def __init__(
        self,
        set_dir: str | Path,
        anchors: Sequence[Sample],
        pool: Sequence[Sample],
        layers: Sequence[str],
        fingerprint: str,
        *,
        condition: str = "text",
        layers_per_sample: int | None = None,
        with_latents: bool = True,
        siblings: bool = True,
    ) -> None:
        if condition not in CONDITIONS:
            raise DataError(f"condition={condition!r}: one of {', '.join(CONDITIONS)}")
        if layers_per_sample is not None and not 1 <= layers_per_sample <= len(layers):
            raise DataError(
                f"layers_per_sample={layers_per_sample}: the backbone has {len(layers)} layers to draw from"
            )
        self.set_dir, self.store = Path(set_dir), ZooStore(set_dir)
        self.anchors, self.layers, self.fingerprint = list(anchors), list(layers), fingerprint
        self.condition, self.layers_per_sample, self.with_latents = condition, layers_per_sample, with_latents
        by_group: dict[tuple[object, ...], list[Sample]] = {}
        for sample in pool:
            by_group.setdefault(_kin(sample), []).append(sample)
        self.lenders = [by_group[_kin(anchor)] if siblings else [anchor] for anchor in self.anchors]

    def __len__(self) -> int:
        return len(self.anchors)

    def bucket(self, item: int) -> tuple[int, int, int]:
        """Items of one bucket have latents of one shape: frames, height, width of the clip."""
        anchor = self.anchors[item]
        return (anchor.frames, *anchor.size)

    def __getitem__(self, key: BatchKey) -> ZooBatch:
        """Reads one batch (DataError naming the file where something is wrong)."""
        anchors = [self.anchors[item] for item in key.items]
        lenders = [
            self.lenders[item][np.random.default_rng(seed).integers(len(self.lenders[item]))]
            for item, seed in zip(key.items, key.item_seeds, strict=True)
        ]
        wanted = {TEXT, CONDITIONS[self.condition]} | ({LATENTS} if self.with_latents else set())
        encoded = [read_encoded(self.set_dir, sample, self.fingerprint, sorted(wanted)) for sample in lenders]
        prompt = Condition.from_rows([one.text for one in encoded])
        values, lengths = prompt.tokens, prompt.lengths
        if self.condition == "pose":
            values, lengths = pad_rows([one.pose for one in encoded if one.pose is not None])
        latents = [one.latents for one in encoded if one.latents is not None]
        layers = self._draw_layers(key)
        lora = self.store.stack(
            [anchor.id for anchor in anchors], [self.layers[i] for i in layers.tolist()], self.fingerprint
        )
        return ZooBatch(
            ids=[anchor.id for anchor in anchors],
            values=values,
            lengths=lengths,
            prompt=prompt,
            latents=torch.stack(latents) if latents else None,
            layers=layers,
            A=lora.A,
            B=lora.B,
            alpha=lora.alpha,
        )

    def _draw_layers(self, key: BatchKey) -> Tensor:
        if self.layers_per_sample is None:
            return torch.arange(len(self.layers))
        drawn = np.random.default_rng((1, *key.seed)).choice(len(self.layers), self.layers_per_sample, replace=False)
        return torch.from_numpy(np.sort(drawn))


def _kin(sample: Sample) -> tuple[object, ...]:
    return (sample.split, sample.group, sample.frames, sample.size)
