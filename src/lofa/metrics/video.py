"""Features of whole clips from a VideoMAE network, for the Fréchet video distance."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import VideoMAEModel

from lofa.metrics.pixels import Preprocessing, check_clips, metric_folder

__all__ = ["VideoFeatures", "load_video_features"]


class VideoFeatures(nn.Module):
    """Mean over tokens of a VideoMAE encoder's last hidden state: one vector a clip.

    Frames are drawn evenly to the network's own number (repeated where a clip is shorter).

    Args:
        model: the encoder; it is put in eval mode.
        preprocessing: how it wants its pixels.
        batch: clips a pass.
    """

    def __init__(self, model: VideoMAEModel, preprocessing: Preprocessing, batch: int = 16) -> None:
        super().__init__()
        self.model = model.eval()
        self.preprocessing = preprocessing
        self.batch = batch

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) -> float32 (B, D)."""
        check_clips(clips)
        wanted = self.model.config.num_frames
        frames = torch.linspace(0, clips.shape[1] - 1, wanted).round().long()
        return torch.cat([self._features(part[:, frames]) for part in clips.split(self.batch)])

    def _features(self, clips: Tensor) -> Tensor:
        pixels = self.preprocessing(rearrange(clips.to(self.model.device), "b t h w c -> (b t) h w c"))
        pixels = rearrange(pixels, "(b t) c h w -> b t c h w", b=clips.shape[0])
        return self.model(pixel_values=pixels).last_hidden_state.mean(1).float()


def load_video_features(path: str | Path | None = None, device: str = "cpu") -> VideoFeatures:
    """Loads a VideoMAE folder with its preprocessor config; by default the shipped one.

    Raises:
        LofaError: the folder or one of its files is missing.
    """
    folder = metric_folder(path, "video")
    model = VideoMAEModel.from_pretrained(folder, dtype=torch.float32)
    return VideoFeatures(model, Preprocessing.load(folder)).requires_grad_(False).to(device)
