"""Sample clips in TensorBoard while stage II trains: base | true LoRA | predicted LoRA, side by side."""

import io
from collections.abc import Mapping

import torch
from einops import rearrange
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from lofa.adapters import Adapter, merge_batches, unstack
from lofa.training.adapter_module import AdapterModule
from lofa.training.module import PairedBatch

__all__ = ["SampleClips"]


class SampleClips(Callback):
    """Generates clips for the first prompts of the first validation batch and logs them as animated images.

    Args:
        captions: sample id -> prompt given to the backbone
        clips: prompts shown
        every: validation runs between two showings
        fps: frames a second
        seed: of the generated noise, the same for all three
    """

    def __init__(
        self, captions: Mapping[str, str], clips: int = 2, every: int = 1, fps: float = 8.0, seed: int = 0
    ) -> None:
        self._captions, self._clips, self._every, self._fps, self._seed = captions, clips, every, fps, seed
        self._runs = 0
        self._fixed: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, int]:
        """Validation runs until now."""
        return {"runs": self._runs}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes back what `state_dict` gave."""
        self._runs = state_dict["runs"]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: PairedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Shows the clips when it is the first batch of a validation run that is due."""
        if batch_idx or trainer.sanity_checking or not isinstance(pl_module, AdapterModule):
            return
        self._runs += 1
        if (self._runs - 1) % self._every:
            return
        predicted = unstack(merge_batches(pl_module(batch)))  # on all processes: a sharded network needs them all
        if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        true = unstack(merge_batches(batch.stacks))
        for row, name in enumerate(batch.ids[: self._clips]):
            if name not in self._fixed:
                self._fixed[name] = self._side_by_side(pl_module, name, [None, true[row]])
            clip = torch.cat([self._fixed[name], self._side_by_side(pl_module, name, [predicted[row]])], dim=2)
            value = Summary.Value(tag=f"clips/{name}: base, LoRA, LoFA", image=self._animated(clip))
            trainer.logger.experiment.file_writer.add_summary(Summary(value=[value]), trainer.global_step)

    def _side_by_side(self, module: AdapterModule, name: str, adapters: list[Adapter | None]) -> Tensor:
        """uint8 (T, H, n W, 3): a clip of each adapter, all from the same noise."""
        clips = module.backbone.generate(self._captions[name], adapters, seed=[self._seed] * len(adapters))
        return rearrange(clips.cpu(), "n t h w c -> t h (n w) c")

    def _animated(self, clip: Tensor) -> Summary.Image:
        """uint8 (T, H, W, 3) -> an animated GIF."""
        first, *others = [Image.fromarray(frame.numpy()) for frame in clip]
        file = io.BytesIO()
        first.save(file, format="GIF", save_all=True, append_images=others, duration=round(1000 / self._fps), loop=0)
        return Summary.Image(height=first.height, width=first.width, colorspace=3, encoded_image_string=file.getvalue())
