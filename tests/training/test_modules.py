from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lofa.adapters import LoraBatch, merge_batches, unstack
from lofa.conditions import Padded, PoseEncoder
from lofa.errors import DataError
from lofa.training import AdapterModule, PredictorModule, SampleClips
from tests.training.pieces import (
    ToyBackbone,
    ToyBatch,
    adapter_module,
    batch_of,
    captions,
    loader,
    response_module,
    single_stage,
)

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


class Gradients(Callback):
    """Keeps the gradients of the last step, by parameter name."""

    def on_before_optimizer_step(
        self, trainer: Trainer, module: PredictorModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.seen = {name: parameter.grad for name, parameter in module.named_parameters()}


def gradients(module: PredictorModule, batch: ToyBatch) -> dict[str, torch.Tensor | None]:
    kept = Gradients()
    data = DataLoader([batch], batch_size=None)
    Trainer(max_steps=1, callbacks=[kept], logger=False, enable_checkpointing=False, **QUIET).fit(module, data)
    return kept.seen


def module_of(stage: int, backbone: ToyBackbone) -> PredictorModule:
    return response_module(backbone) if stage == 1 else adapter_module(backbone)


@pytest.mark.parametrize("stage", [1, 2])
def test_checkpoint_and_optimizer_hold_network_and_encoder_alone(stage: int, tmp_path: Path) -> None:
    backbone = ToyBackbone()
    module = module_of(stage, backbone)
    trainer = Trainer(max_steps=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, **QUIET)
    before = [parameter.clone() for parameter in backbone.net.parameters()]
    trainer.fit(module, loader(backbone, 2, 2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {f"hypernet.trained.{name}" for name in module.hypernet.trained.state_dict()}
    assert {id(p) for p in module.hypernet.trained.parameters()} == {
        id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]
    }
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.net.parameters(), strict=True))
    if stage == 2:
        assert not any(parameter.requires_grad for parameter in module.hypernet.parts()["response"].parameters())


@pytest.mark.parametrize("stage", [1, 2])
def test_every_parameter_gets_a_finite_gradient(stage: int) -> None:
    backbone = ToyBackbone()
    for name, gradient in gradients(module_of(stage, backbone), batch_of([0, 1], backbone)).items():
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


@pytest.mark.parametrize(("stage", "precision"), [(1, "32-true"), (2, "32-true"), (1, "bf16-mixed"), (2, "bf16-mixed")])
def test_tensorboard_shows_losses_shares_and_agreement(stage: int, precision: str, tmp_path: Path) -> None:
    backbone = ToyBackbone()
    names = {f"s{row}": caption for row, caption in enumerate(captions(4))}
    trainer = Trainer(
        max_epochs=2,
        precision=precision,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
        log_every_n_steps=1,
        callbacks=[SampleClips(names, clips=1)],
        enable_checkpointing=False,
        gradient_clip_val=1.0,
        **QUIET,
    )
    trainer.fit(module_of(stage, backbone), loader(backbone, 6, 2), loader(backbone, 4, 2))
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = set(events.Tags()["scalars"])
    maps = {
        f"{kind}_{measure}" for kind in ("response", "implied")[:stage] for measure in ("precision", "recall", "cosine")
    }
    assert {"train/loss", "val/loss"} | {f"val/{name}" for name in maps} <= shown
    if stage == 1:
        assert {"train/cross_entropy", "train/response_cosine"} <= shown
        return
    assert {
        "train/delta",
        "val/denoising",
        "val/denoising_base",
        "val/denoising_lora",
        "val/response_implied_cosine",
    } <= shown
    shares = [events.Scalars(f"train/gradient_share_{term}") for term in ("delta", "denoising")]
    assert len(shares[0]) == 3  # steps 0, 2, 4
    for delta, denoising in zip(*shares, strict=True):
        assert delta.value + denoising.value == pytest.approx(1, abs=1e-6) and 0 < delta.value < 1
    assert events.Tags()["images"] == ["clips/s0: base, LoRA, LoFA"]


def test_diagnostics_leave_the_training_as_it_was() -> None:
    ends = []
    for every in (1, 10**6):
        backbone = ToyBackbone()
        module = adapter_module(backbone, diagnostics_every=every)
        trainer = Trainer(max_steps=3, logger=False, enable_checkpointing=False, **QUIET)
        trainer.fit(module, loader(backbone, 6, 2))
        ends.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_pose_encoder_trains_with_the_network() -> None:
    backbone = ToyBackbone()
    batch = batch_of([0, 1], backbone)
    batch.inputs = {"pose": Padded(torch.randn(2, 6, 5, 2), torch.tensor([6, 4]))}
    module = response_module(backbone)
    module.hypernet.trained.encoder = PoseEncoder(joints=5, width=8, channels=8, layers=2)
    found = gradients(module, batch)
    assert any(name.startswith("hypernet.trained.encoder.") for name in found)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())


def test_batches_that_do_not_fit_are_refused() -> None:
    backbone = ToyBackbone()
    batch = batch_of([0], backbone)
    (stack,) = batch.stacks
    batch.stacks = [replace(stack, A=torch.cat([stack.A, stack.A], -1))]
    with pytest.raises(DataError, match=r"adapter of s0 .* layer \(16, 32\)"):
        response_module(backbone).training_step(batch, 0)
    module = adapter_module(backbone)
    with pytest.raises(DataError, match="sample s0: no latents"):
        module.training_step(batch_of([0], backbone, latents=False), 0)


@pytest.mark.parametrize("mixed", [False, True])
def test_predicted_adapters_are_those_the_loss_saw(mixed: bool) -> None:
    backbone = ToyBackbone(mixed)
    module, batch = adapter_module(backbone), batch_of([0, 1, 2], backbone)
    prediction = module(batch)
    for row, adapter in enumerate(unstack(merge_batches(module(batch)))):
        assert set(adapter) == {layer.name for layer in backbone.layers}
        for stack, part in zip(batch.stacks, prediction, strict=True):
            stacked = torch.stack([adapter.delta_weight(name) for name in stack.layers])
            torch.testing.assert_close(stacked, part.delta_weight()[row])


def test_layers_of_several_shapes_train_in_both_stages() -> None:
    backbone = ToyBackbone(mixed=True)
    batch = batch_of([0, 1, 2], backbone)
    assert [stack.A.shape[3] for stack in batch.stacks] == [16, 16, 32]
    for module in (response_module(backbone), adapter_module(backbone)):
        found = gradients(module, batch)
        for name, gradient in found.items():
            assert gradient is not None and gradient.isfinite().all() and gradient.any(), name
        names = {name.split(".")[5] for name in found if name.startswith("hypernet.trained.network.head.A.")}
        assert names == {"16", "32"}


def test_alpha_is_part_of_the_l1_loss_unless_told_otherwise() -> None:
    backbone = ToyBackbone()
    batch = batch_of([0, 1], backbone)
    ends = {}
    for inside in (True, False):
        module = adapter_module(backbone, alpha_in_delta=inside)
        prediction = module(batch)
        draw = module._draw(batch, 0, 0, 1)
        half = [replace(part, alpha=part.alpha / 2) for part in prediction]
        ends[inside] = [float(module._terms(parts, batch, draw)["delta"]) for parts in (prediction, half)]
    assert ends[True][0] != ends[True][1]
    assert ends[False][0] == ends[False][1]


@pytest.mark.parametrize(("spoil", "words"), [(float("nan"), "NaN or infinity"), (0.0, "columns of zeros")])
def test_a_backbone_with_broken_weights_is_refused_by_layer(spoil: float, words: str) -> None:
    backbone = ToyBackbone()
    backbone.net[1].weight[:, 3] = spoil
    with pytest.raises(DataError, match=f"'toy': 1 of 4 weight matrices hold {words}: {backbone.layers[1].name}"):
        response_module(backbone)


def test_the_weights_that_are_read_are_those_of_the_backbone_and_no_copy() -> None:
    backbone = ToyBackbone(mixed=True)
    module, batch = response_module(backbone), batch_of([0], backbone)
    layers = list(module.layers_of(batch))
    assert [layer.name for layer in layers] == [name for stack in batch.stacks for name in stack.layers]
    order = [layer.name for layer in backbone.layers]
    for layer in layers:
        own = backbone.net[order.index(layer.name)].weight
        assert layer.weight.data_ptr() == own.data_ptr() and layer.weight.shape == own.shape
        assert layer.depth == backbone.depth_ids[order.index(layer.name)]
        assert layer.kind == backbone.kind_ids[order.index(layer.name)]
    for stack in batch.stacks:
        pointers = [weight.data_ptr() for weight in module.weights_of(stack)]
        assert pointers == [backbone.weight(name).data_ptr() for name in stack.layers]


def test_a_single_stage_trains_without_a_response_map() -> None:
    backbone = ToyBackbone()
    hypernet = single_stage(backbone)
    module = AdapterModule(hypernet, backbone, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    trainer = Trainer(max_steps=3, logger=False, enable_checkpointing=False, **QUIET)
    trainer.fit(module, loader(backbone, 6, 2), loader(backbone, 4, 2))
    assert {"val/delta", "val/denoising", "val/implied_cosine"} <= trainer.callback_metrics.keys()
    assert not any("response" in name for name in trainer.callback_metrics)
    assert list(hypernet.parts()) == ["adapter"] and hypernet.trained.network.config.read_after == ()
    for name, gradient in gradients(module, batch_of([0, 1], backbone)).items():
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


def test_validation_of_stage_two_runs_stage_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = ToyBackbone()
    module = adapter_module(backbone)
    network, calls = module.hypernet.parts()["response"].network, []
    tokens = network.tokens
    monkeypatch.setattr(network, "tokens", lambda *given: (calls.append(given), tokens(*given))[1])
    Trainer(logger=False, **QUIET).validate(module, loader(backbone, 4, 2), verbose=False)
    assert len(calls) == 2, "two batches of layers of one shape"


def test_layers_that_are_drawn_give_what_all_of_them_give() -> None:
    """Stage I's part of the weights is kept for all layers, and read for those of the batch."""
    backbone = ToyBackbone(mixed=True)
    module, batch = adapter_module(backbone), batch_of([0, 1], backbone)
    whole = {name: pair for part in module(batch) for name, pair in part.by_layer().items()}
    batch.stacks = [LoraBatch(s.A[:, -1:], s.B[:, -1:], s.alpha[:, -1:], s.layers[-1:]) for s in batch.stacks]
    for part in module(batch):
        (name,) = part.layers
        torch.testing.assert_close(part.by_layer()[name].delta_weight(), whole[name].delta_weight())
