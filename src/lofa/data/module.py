"""The LightningDataModule: a prepared set and its zoo as batches for either stage."""

from collections.abc import Iterable, Sequence
from functools import partial

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lofa.backbones import Fingerprinted, LayerSpec
from lofa.conditions import PROMPT, find_kind
from lofa.data.dataset import ZooBatch, ZooDataset
from lofa.data.sampler import BatchKey, BatchPlan, EndlessBatches
from lofa.data.samples import read_encoded, read_samples
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError
from lofa.paths import Location, locate

__all__ = ["LoFADataModule"]


class LoFADataModule(pl.LightningDataModule):
    """Batches of prompts with their precomputed LoRAs.

    Args:
        set_dir: folder of the prepared set
        layers: the backbone's adapted layers
        backbone: the one in use
        conditions: kinds that the hypernetwork is given
        stage: 1 reads the layers it draws and no latents, 2 all layers and latents
        batch_size: prompts of a batch on one process, at least 1
        layers_per_sample: layers drawn a batch in stage 1; None or more than there are: all
        siblings: other samples of the group lend prompt and latents during training; validation stays with the anchors
        drop: how often a training sample goes without a condition, where there are several
        workers: processes that read
        seed: of order and draws
    """

    def __init__(
        self,
        set_dir: Location,
        layers: Sequence[LayerSpec],
        backbone: Fingerprinted,
        *,
        conditions: Sequence[str] = (PROMPT.name,),
        stage: int = 1,
        batch_size: int = 16,
        layers_per_sample: int | None = 10,
        siblings: bool = True,
        drop: float = 0.0,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.kinds = [find_kind(name) for name in conditions]
        if not self.kinds:
            raise DataError("conditions: give at least one kind")
        self.set_dir, self.layers, self.backbone = locate(set_dir), tuple(layers), backbone
        self.stage, self.batch_size, self.siblings = stage, batch_size, siblings
        self.layers_per_sample, self.drop, self.workers, self.seed = layers_per_sample, drop, workers, seed
        self.train: ZooDataset | None = None
        self.val: ZooDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        """Pairs samples and LoRAs.

        Raises:
            DataError: no set, no zoo for this backbone, no LoRA of a training sample, or samples without the condition.
        """
        if self.train is not None:
            return
        samples, store = read_samples(self.set_dir), ZooStore(self.set_dir)
        ready = set(store.ready())
        anchors = {split: [s for s in samples if s.id in ready and s.split == split] for split in ("train", "val")}
        if not anchors["train"]:
            raise DataError(
                f"{store.folder}: no LoRAs of training samples ({len(ready)} LoRAs, {len(samples)} samples). "
                f"Make them with: lofa zoo data={self.set_dir}"
            )
        for kind in self.kinds:
            without = [sample.id for sample in samples if kind.key not in sample.encoded]
            if without:
                raise DataError(
                    f"{self.set_dir}: {len(without)} samples have no {kind.key} (the first: {without[0]}); "
                    f"a {kind.name} task needs a set whose clips all have it"
                )
        store.read(anchors["train"][0].id, [layer.name for layer in self.layers], self.backbone)  # is it this zoo?
        drawn = self.layers_per_sample if self.stage == 1 else None
        dataset = partial(
            ZooDataset,
            self.set_dir,
            self.layers,
            self.backbone,
            self.kinds,
            samples,
            layers_per_sample=None if drawn is None or drawn >= len(self.layers) else drawn,
            with_latents=self.stage == 2,
        )
        self.train = dataset(anchors=anchors["train"], siblings=self.siblings, drop=self.drop)
        self.val = dataset(anchors=anchors["val"], siblings=False, drop=0.0)

    def example(self) -> dict[str, Tensor]:
        """A row (n, ...) of each kind of condition, as the set has it; encoders are built to take it."""
        assert self.train is not None, "setup() comes first"
        wanted = [kind.key for kind in self.kinds]
        encoded = read_encoded(self.set_dir, self.train.anchors[0], self.backbone, wanted)
        return {kind.name: encoded.conditions[kind.name] for kind in self.kinds}

    def _plan(self, dataset: ZooDataset | None, shuffle: bool) -> tuple[ZooDataset, BatchPlan]:
        assert dataset is not None, "setup() comes first"
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        buckets = [dataset.bucket(item) for item in range(len(dataset))]
        return dataset, BatchPlan(buckets, self.batch_size, world=world, rank=rank, shuffle=shuffle, seed=self.seed)

    def _loader(self, dataset: ZooDataset, keys: Iterable[BatchKey]) -> DataLoader[ZooBatch]:
        return DataLoader(
            dataset, sampler=keys, batch_size=None, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    @property
    def batches_per_epoch(self) -> int:
        """Training batches that hold every LoRA once, on each process."""
        return len(self._plan(self.train, shuffle=True)[1])

    def train_dataloader(self) -> DataLoader[ZooBatch]:
        """Batches of the training split without end, in another order each epoch.

        It begins with the batch after the last that the trainer took, also in a resumed run: the trainer's count of
        steps is all that says where.
        """
        dataset, plan = self._plan(self.train, shuffle=True)
        trainer = self.trainer
        start = 0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches
        return self._loader(dataset, EndlessBatches(plan, start))

    def val_dataloader(self) -> DataLoader[ZooBatch]:
        """Batches of the validation split, always the same; empty where the set has none."""
        dataset, plan = self._plan(self.val, shuffle=False)
        return self._loader(dataset, plan.epoch(0))

    def transfer_batch_to_device(self, batch: ZooBatch, device: torch.device, dataloader_idx: int) -> ZooBatch:
        """Moves a batch."""
        return batch.to(device)
