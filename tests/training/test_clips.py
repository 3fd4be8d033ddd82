"""The clips that TensorBoard shows while stage II trains."""

import io
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lofa.adapters import Adapter, merge_batches, unstack
from lofa.training import SampleClips
from tests.training.pieces import ToyBackbone, adapter_module, captions, loader


def test_clips_stand_side_by_side_without_with_the_true_and_with_the_predicted_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = ToyBackbone()
    module = adapter_module(backbone)
    data = loader(backbone, 2, 2)
    asked: list[tuple[str, list[Adapter | None], list[int]]] = []
    shades = {}

    def painted(prompt: str, adapters: list[Adapter | None], seed: list[int]) -> torch.Tensor:
        """Black without an adapter, and another grey for every delta weight."""
        asked.append((prompt, adapters, seed))
        greys = [0 if one is None else shades.setdefault(one.norm(), 60 + 60 * len(shades)) for one in adapters]
        return torch.tensor(greys, dtype=torch.uint8)[:, None, None, None, None].expand(-1, 3, 8, 8, 3).clone()

    monkeypatch.setattr(backbone, "generate", painted)
    names = dict(zip(("s0", "s1"), captions(2), strict=True))
    logger = TensorBoardLogger(tmp_path, name="", version="")
    callback = SampleClips(names, clips=2, seed=5)
    Trainer(
        accelerator="cpu", logger=logger, callbacks=[callback], enable_progress_bar=False, enable_checkpointing=False
    ).validate(module, data, verbose=False)
    batch = next(iter(data))
    true, predicted = (unstack(merge_batches(stacks)) for stacks in (batch.stacks, module(batch)))
    events = EventAccumulator(str(tmp_path)).Reload()
    for row, name in enumerate(batch.ids):
        (shown,) = events.Images(f"clips/{name}: base, LoRA, LoFA")
        picture = Image.open(io.BytesIO(shown.encoded_image_string)).convert("L")
        expected = [0, shades[true[row].norm()], shades[predicted[row].norm()]]
        assert picture.size == (24, 8)
        assert [picture.getpixel((x, 4)) for x in (4, 12, 20)] == pytest.approx(expected, abs=3)
    assert len(shades) == 4 and {prompt for prompt, _, _ in asked} == set(names.values())
    assert {number for _, _, seeds in asked for number in seeds} == {5}
