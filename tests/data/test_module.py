"""The data module: batches hold what the files hold, for either stage and condition."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shutil import copytree, ignore_patterns
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import fsspec
import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lofa.adapters import Adapter
from lofa.backbones import Backbone, LayerSpec
from lofa.data import LoFADataModule, ZooBatch, ZooEntry, ZooStore, read_encoded, read_samples, write_samples
from lofa.errors import DataError
from lofa.paths import Location
from tests.data.conftest import random_adapter
from tests.helpers.stamps import Stamp
from tests.helpers.web import serve


def module(set_dir: Location, backbone: Backbone, **values: Any) -> LoFADataModule:
    data = LoFADataModule(set_dir, backbone.layers, backbone, **{"batch_size": 2, **values})
    data.setup()
    return data


def epochs(data: LoFADataModule, count: int) -> Iterator[list[ZooBatch]]:
    """The training batches of the first epochs."""
    batches = iter(data.train_dataloader())
    for _ in range(count):
        yield list(islice(batches, data.batches_per_epoch))


def epoch(data: LoFADataModule) -> list[ZooBatch]:
    """The training batches of the first epoch."""
    return next(epochs(data, 1))


def test_stage_one_reads_the_layers_it_draws(zoo_set: Path, backbone: Backbone) -> None:
    data = module(zoo_set, backbone, layers_per_sample=3)
    drawn = set()
    for batches in epochs(data, 8):
        for batch in batches:
            P = len(batch)
            (part,) = batch.stacks
            assert batch.latents is None and len(part.layers) == len(set(part.layers)) == 3
            assert part.A.shape == (P, 3, 2, 96) and part.B.shape == (P, 3, 96, 2) and part.alpha.shape == (P, 3)
            for row, name in enumerate(batch.ids):
                whole = Adapter.load(ZooStore(zoo_set).path(name))
                for i, layer in enumerate(part.layers):
                    delta = part.alpha[row, i] * part.B[row, i] @ part.A[row, i]
                    torch.testing.assert_close(delta, whole.delta_weight(layer))
            drawn.update(part.layers)
    assert drawn == {layer.name for layer in backbone.layers}


def test_stage_two_reads_everything(zoo_set: Path, backbone: Backbone) -> None:
    data = module(zoo_set, backbone, stage=2, siblings=False)
    by_id = {sample.id: sample for sample in read_samples(zoo_set)}
    ids = []
    for batch in epoch(data):
        assert batch.stacks[0].layers == tuple(layer.name for layer in backbone.layers) and batch.latents is not None
        for i, name in enumerate(batch.ids):
            encoded = read_encoded(zoo_set, by_id[name], backbone)
            assert encoded.latents is not None and torch.equal(batch.latents[i], encoded.latents)
            assert torch.equal(batch.prompt.row(i), encoded.conditions["text"])
            text = batch.inputs["text"]
            assert torch.equal(text.values[i, : text.lengths[i]], encoded.conditions["text"])
            assert not text.values[i, text.lengths[i] :].any()
        ids += batch.ids
    assert sorted(ids) == sorted(name for name in ZooStore(zoo_set).ready() if by_id[name].split == "train")
    loss = backbone.denoising_loss(batch.latents, batch.prompt, noise_level=torch.full((len(batch),), 0.5))
    assert loss.shape == (len(batch),) and torch.isfinite(loss).all()


def test_pose_is_the_condition_and_text_still_steers_the_backbone(zoo_set: Path, backbone: Backbone) -> None:
    batch = next(iter(module(zoo_set, backbone, conditions=["pose"], stage=2).train_dataloader()))
    (pose,) = batch.inputs.values()
    assert pose.values.shape == (len(batch), 5, 15, 2) and pose.lengths.tolist() == [5] * len(batch)
    assert batch.prompt.tokens.shape[2] == backbone.condition_width


def test_conditions_are_dropped_in_training_alone_and_the_same_in_every_run(zoo_set: Path, backbone: Backbone) -> None:
    def lengths(batches: list[ZooBatch]) -> list[list[list[int]]]:
        return [[rows.lengths.tolist() for rows in batch.inputs.values()] for batch in batches]

    def there(data: LoFADataModule) -> list[list[list[int]]]:
        return [[[int(n > 0) for n in kind] for kind in batch] for epoch in epochs(data, 6) for batch in lengths(epoch)]

    two = {"conditions": ["text", "pose"], "batch_size": 3, "drop": 0.5}
    found = there(module(zoo_set, backbone, **two))
    assert found == there(module(zoo_set, backbone, **two))
    kept = torch.tensor(found)  # (batches, kinds, samples)
    assert 0.5 < kept.float().mean() < 0.95 and kept.any(1).all() and len({str(batch) for batch in found}) > 3
    data = module(zoo_set, backbone, **two)
    assert all(n > 0 for batch in lengths(list(data.val_dataloader())) for kind in batch for n in kind)
    for values in ({**two, "drop": 0.0}, {**two, "conditions": ["pose"]}):
        assert all(
            n > 0 for batch in lengths(epoch(module(zoo_set, backbone, **values))) for kind in batch for n in kind
        )


def test_siblings_lend_prompt_and_latents_but_not_the_lora(zoo_set: Path, backbone: Backbone) -> None:
    data = module(zoo_set, backbone, stage=2, siblings=True, batch_size=1)
    samples = read_samples(zoo_set)
    groups = {sample.id: sample.group for sample in samples}
    seen: dict[str, set[str]] = {}
    for batches in epochs(data, 12):
        for batch in batches:
            kin = [s for s in samples if s.group == groups[batch.ids[0]]]
            rows = {s.id: read_encoded(zoo_set, s, backbone) for s in kin}
            lender = [
                name
                for name, row in rows.items()
                if torch.equal(row.conditions["text"], batch.prompt.row(0))
                and torch.equal(row.latents, batch.latents[0])
            ]
            assert len(lender) == 1
            seen.setdefault(batch.ids[0], set()).update(lender)
    assert all(len(lenders) == 3 for lenders in seen.values())


@pytest.fixture
def one_group(zoo_set: Path, backbone: Backbone, tmp_path: Path) -> Path:
    """The set with all its clips, of every split, in one group, and with LoRAs of two test clips."""
    set_dir = copytree(zoo_set, tmp_path / "one-group")
    samples = [replace(sample, group="one") for sample in read_samples(set_dir)]
    write_samples(set_dir, samples)
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    for sample in [sample for sample in samples if sample.split == "test"][:2]:
        ZooStore(set_dir).add(random_adapter(backbone, 99), ZooEntry(sample.id, "ok", 0.2, 0.1), "1-of-1", header)
    return set_dir


def read_of(set_dir: Path, backbone: Backbone, batch: ZooBatch, row: int) -> str:
    """The sample whose prompt and latents a row of a batch holds."""
    (name,) = (
        sample.id
        for sample in read_samples(set_dir)
        if torch.equal((own := read_encoded(set_dir, sample, backbone)).conditions["text"], batch.prompt.row(row))
        and torch.equal(own.latents, batch.latents[row])
    )
    return name


@pytest.mark.parametrize("siblings", [True, False])
def test_training_sees_the_training_split_alone(one_group: Path, backbone: Backbone, siblings: bool) -> None:
    """A group that spans the splits lends nothing across them, and a LoRA of another split is no item."""
    data = module(one_group, backbone, stage=2, siblings=siblings, batch_size=3)
    train = {sample.id for sample in read_samples(one_group) if sample.split == "train"}
    items, seen = set(), set()
    for batches in epochs(data, 25):
        for batch in batches:
            items.update(batch.ids)
            seen.update(read_of(one_group, backbone, batch, row) for row in range(len(batch)))
    assert items == train & set(ZooStore(one_group).ready()) and len(items) < len(train)
    assert seen == (train if siblings else items)


@pytest.mark.parametrize("siblings", [True, False])
def test_validation_is_each_loras_own_clip_in_its_split(one_group: Path, backbone: Backbone, siblings: bool) -> None:
    ready = set(ZooStore(one_group).ready())
    wanted = [sample.id for sample in read_samples(one_group) if sample.split == "val" and sample.id in ready]
    for seed in (0, 1, 2, 3):  # the order is the set's, whatever the run's seed
        loader = module(one_group, backbone, stage=2, siblings=siblings, batch_size=3, seed=seed).val_dataloader()
        for _ in range(2):
            found = [(batch, row) for batch in loader for row in range(len(batch))]
            assert [batch.ids[row] for batch, row in found] == wanted and len(wanted) == 2
            assert [read_of(one_group, backbone, batch, row) for batch, row in found] == wanted


MIXED = [
    *(LayerSpec(f"transformer.blocks.{depth}.attn1.to_q", depth, "attn1.to_q", 6, 4) for depth in range(5)),
    LayerSpec("transformer.blocks.0.ffn.net.0.proj", 0, "ffn.net.0.proj", 10, 4),
]
"""One shape is rare."""


def test_every_shape_is_drawn_in_every_batch_and_every_layer_in_turn(
    zoo_set: Path, backbone: Backbone, tmp_path: Path
) -> None:
    set_dir = copytree(zoo_set, tmp_path / "mixed", ignore=ignore_patterns("zoo"))
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    for seed, name in enumerate(ZooStore(zoo_set).ready()):
        adapter = random_adapter(SimpleNamespace(layers=MIXED), seed)
        ZooStore(set_dir).add(adapter, ZooEntry(name, "ok", 0.2, 0.1), "1-of-1", header)
    data = LoFADataModule(set_dir, MIXED, backbone, batch_size=1, layers_per_sample=2)
    data.setup()
    drawn: list[list[str]] = []
    for batches in epochs(data, 10):
        drawn.append([])
        for batch in batches:
            assert [len(stack.layers) for stack in batch.stacks] == [1, 1]
            whole = Adapter.load(ZooStore(set_dir).path(batch.ids[0]))
            for stack in batch.stacks:
                delta = stack.alpha[0, 0] * stack.B[0, 0] @ stack.A[0, 0]
                torch.testing.assert_close(delta, whole.delta_weight(stack.layers[0]))
            assert batch.stacks[1].layers == (MIXED[5].name,)
            drawn[-1].append(batch.stacks[0].layers[0])
    assert {layer for layers in drawn for layer in layers} == {layer.name for layer in MIXED[:5]}
    assert len({tuple(layers) for layers in drawn}) > 1, "another epoch draws other layers"
    assert any(len(set(layers)) > 1 for layers in drawn), "another batch draws other layers"


def test_batches_are_the_same_with_and_without_workers(zoo_set: Path, backbone: Backbone) -> None:
    alone, helped = (epoch(module(zoo_set, backbone, stage=2, workers=n)) for n in (0, 1))
    for one, other in zip(alone, helped, strict=True):
        assert (
            one.ids == other.ids
            and torch.equal(one.inputs["text"].values, other.inputs["text"].values)
            and torch.equal(one.stacks[0].A, other.stacks[0].A)
        )


def same(one: ZooBatch, other: ZooBatch) -> bool:
    tensors = (
        (*batch.prompt.tokens, *vars(batch.inputs["text"]).values(), *(t for s in batch.stacks for t in (s.A, s.B)))
        for batch in (one, other)
    )
    return one.ids == other.ids and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stage", [1, 2])
def test_batches_are_the_same_from_a_disk_a_store_and_a_web_server(
    zoo_set: Path, backbone: Backbone, stage: int, workers: int
) -> None:
    store = f"memory://{uuid4().hex}"
    fsspec.filesystem("memory").put(str(zoo_set), store, recursive=True)
    with serve(zoo_set) as web:
        disk, *others = (
            epoch(module(place, backbone, stage=stage, workers=workers, layers_per_sample=3))
            for place in (zoo_set, store, web.url)
        )
    for other in others:
        assert len(disk) == len(other) > 1 and all(map(same, disk, other))


class Recorder(pl.LightningModule):
    """Notes the ids it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[str] = []
        self.validated: list[str] = []

    def training_step(self, batch: ZooBatch, index: int) -> Tensor:
        self.trained += batch.ids
        return self.weight * batch.stacks[0].A.mean()

    def validation_step(self, batch: ZooBatch, index: int) -> None:
        self.validated += batch.ids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    zoo_set: Path, backbone: Backbone, folder: Path, steps: int, resume: Path | None = None, accumulate: int = 1
) -> Recorder:
    """Takes up to so many steps, validating every fourth, from a checkpoint where one is given; leaves one."""
    recorder = Recorder()
    trainer = pl.Trainer(
        max_steps=steps, val_check_interval=4 * accumulate, check_val_every_n_epoch=None, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, accumulate_grad_batches=accumulate, default_root_dir=folder,
    )  # fmt: skip
    data = LoFADataModule(zoo_set, backbone.layers, backbone, batch_size=1)
    trainer.fit(recorder, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return recorder


def test_a_trainer_gets_epoch_after_epoch(zoo_set: Path, backbone: Backbone, tmp_path: Path) -> None:
    train_ids, val_ids = (
        [sample.id for sample in read_samples(zoo_set) if sample.split == split and sample.id in ready]
        for ready in [set(ZooStore(zoo_set).ready())]
        for split in ("train", "val")
    )
    N = len(train_ids)
    recorder = train(zoo_set, backbone, tmp_path, 3 * N)
    orders = [tuple(recorder.trained[start : start + N]) for start in range(0, 3 * N, N)]
    assert len(set(orders)) > 1 and all(sorted(order) == sorted(train_ids) for order in orders)
    assert recorder.validated == val_ids * (3 * N // 4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_goes_on_with_the_next_batch(
    zoo_set: Path, backbone: Backbone, accumulate: int, tmp_path: Path
) -> None:
    whole = train(zoo_set, backbone, tmp_path, 11, accumulate=accumulate).trained
    for stop in (1, 4, 6, 7):  # within an epoch, and at the end of one
        first = train(zoo_set, backbone, tmp_path, stop, accumulate=accumulate).trained
        rest = train(zoo_set, backbone, tmp_path, 11, tmp_path / f"{stop}.ckpt", accumulate).trained
        assert first + rest == whole


def test_a_moved_batch_is_the_same(zoo_set: Path, backbone: Backbone) -> None:
    batch = next(iter(module(zoo_set, backbone, stage=2).train_dataloader()))
    moved = batch.to("cpu")
    assert (
        moved.ids == batch.ids
        and torch.equal(moved.latents, batch.latents)
        and moved.prompt.lengths.dtype == torch.int64
    )


def test_what_is_missing_is_said_with_the_way_out(
    prepared: Path, zoo_set: Path, backbone: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no prepared data set at .*nowhere.*lofa prepare"):
        module(tmp_path / "nowhere", backbone)
    with pytest.raises(DataError, match="no LoRAs of training samples.*lofa zoo data=/.*small"):
        module(prepared, backbone)
    with pytest.raises(DataError, match="made for backbone.*'.*tiny-wan-random.*not for the one in use"):
        LoFADataModule(zoo_set, backbone.layers, Stamp("another")).setup()
    for values, words in (
        ({"conditions": ["smell"]}, "no kind of condition 'smell'; one of text, pose"),
        ({"conditions": []}, "at least one kind"),
    ):
        with pytest.raises(DataError, match=words):
            module(zoo_set, backbone, **values)


def test_a_set_without_poses_takes_no_pose_task(zoo_set: Path, backbone: Backbone, tmp_path: Path) -> None:
    set_dir = copytree(zoo_set, tmp_path / "set")
    samples = read_samples(set_dir)
    write_samples(set_dir, [replace(sample, encoded=("condition.text", "latents")) for sample in samples])
    with pytest.raises(DataError, match=r"no condition\.pose"):
        module(set_dir, backbone, conditions=["pose"])
    module(set_dir, backbone)


def test_a_spoilt_file_stops_training_by_name(zoo_set: Path, backbone: Backbone, tmp_path: Path) -> None:
    set_dir = copytree(zoo_set, tmp_path / "set")
    store = ZooStore(set_dir)
    name = store.ready()[-1]
    path = store.path(name)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=f"{name}.*not a whole safetensors file"):
        list(module(set_dir, backbone).val_dataloader())


def test_a_set_without_validation_has_an_empty_loader(zoo_set: Path, backbone: Backbone, tmp_path: Path) -> None:
    set_dir = copytree(zoo_set, tmp_path / "set")
    write_samples(set_dir, [sample for sample in read_samples(set_dir) if sample.split == "train"])
    assert len(module(set_dir, backbone).val_dataloader()) == 0
