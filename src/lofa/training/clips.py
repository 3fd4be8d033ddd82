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

from lofa.adapters import Adapter
from lofa.training.adapter_module import AdapterModule
from lofa.training.batch import PairedBatch

__all__ = ["SampleClips", "gif"]


def gif(clip: Tensor, fps: float) -> bytes:
    """uint8 (T, H, W, 3) -> an animated GIF that plays at `fps` frames a second."""
    frames = [Image.fromarray(frame.numpy()) for frame in clip.cpu()]
    file = io.BytesIO()
    frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0)
    return file.getvalue()


class SampleClips(Callback):
    """Generates clips for the first prompts of the first validation batch and logs them as animated images.

    Args:
        captions: sample id -> prompt given to the backbone
        clips: prompts shown
        every: validation runs between two showings
        fps: frames a second
        seed: of the generated noise, the same for all three
        steps: of the sampler; None takes the backbone's
    """

    def __init__(
        self,
        captions: Mapping[str, str],
        clips: int = 2,
        every: int = 1,
        fps: float = 8.0,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        self._captions = captions
        self._clips = clips
        self._every = every
        self._fps = fps
        self._seed = seed
        self._steps = steps
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
        predicted = pl_module.predict_adapters(batch)  # on all processes: a sharded network needs them all
        if not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        true = pl_module.true_adapters(batch)
        for row, name in enumerate(batch.ids[: self._clips]):
            caption = self._captions[name]
            if name not in self._fixed:
                self._fixed[name] = self._side_by_side(pl_module, caption, [None, true[row]])
            clip = torch.cat([self._fixed[name], self._side_by_side(pl_module, caption, [predicted[row]])], dim=2)
            image = Summary.Image(
                height=clip.shape[1], width=clip.shape[2], colorspace=3, encoded_image_string=gif(clip, self._fps)
            )
            summary = Summary(value=[Summary.Value(tag=f"clips/{name}: base, LoRA, LoFA", image=image)])
            trainer.logger.experiment.file_writer.add_summary(summary, trainer.global_step)

    def _side_by_side(self, module: AdapterModule, caption: str, adapters: list[Adapter | None]) -> Tensor:
        """uint8 (T, H, n W, 3): a clip of each adapter, all from the same noise."""
        clips = module.backbone.generate(caption, adapters, seed=[self._seed] * len(adapters), steps=self._steps)
        return rearrange(clips.cpu(), "n t h w c -> t h (n w) c")
