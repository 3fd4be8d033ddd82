"""A kind of hypernetwork is one file and one line of the table: it is trained, saved, loaded and asked as any other."""

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from lofa.conditions import TextEncoder
from lofa.errors import LofaError
from lofa.hypernets import HYPERNETS
from lofa.predict import Predictor, save_predictor
from lofa.training import AdapterModule
from tests.training.pieces import CONTEXT, ToyBackbone, batch_of, captions, loader, sizes
from tests.training.toy_hypernet import Toy


def test_it_is_trained_saved_loaded_and_asked(tmp_path: Path) -> None:
    backbone = ToyBackbone(mixed=True)
    toy = HYPERNETS["toy"].fresh(2, sizes(backbone), TextEncoder(width=CONTEXT), {})
    module = AdapterModule(toy, backbone, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    batch = batch_of([0, 1], backbone)
    before = [part.delta_weight().detach() for part in module(batch)]
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, loader(backbone, 4, 2), loader(backbone, 2, 2))
    assert "val/denoising" in trainer.callback_metrics
    trained = module(batch)
    assert not any(torch.equal(a, b.delta_weight()) for a, b in zip(before, trained, strict=True))
    save_predictor(tmp_path, backbone, conditions=["text"], hypernet=module.hypernet)
    predictor = Predictor.load(tmp_path, backbone=backbone)
    assert isinstance(predictor.hypernet, Toy)
    for row, adapter in enumerate(predictor.predict(captions(2))):
        assert list(adapter) == [layer.name for layer in backbone.layers]
        for part in trained:
            for i, name in enumerate(part.layers):
                torch.testing.assert_close(adapter.delta_weight(name), part.delta_weight()[row, i].detach())
    with pytest.raises(LofaError, match="a toy predictor has no response map"):
        predictor.response_map("a figure")
