"""CLIP-T: how well the frames of a clip fit a text, as the mean cosine of CLIP's image and text embeddings."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase

from lofa.metrics.pixels import Preprocessing, check_clips, metric_folder
from lofa.metrics.rows import ClipMetric

__all__ = ["ClipEncoder", "ClipScore", "load_clip"]


class ClipEncoder(nn.Module):
    """A CLIP model with its tokenizer and pixels: unit vectors of frames and of texts.

    Args:
        model: put in eval mode.
        tokenizer: texts longer than it takes are cut, as CLIP scores always do.
        preprocessing: how the image tower wants its pixels.
        batch: frames or texts a pass.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, preprocessing: Preprocessing, batch: int = 256
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.batch = batch

    @torch.no_grad()
    def images(self, clips: Tensor) -> Tensor:
        """uint8 (B, T, H, W, 3) -> unit vectors (B, T, D), one a frame."""
        frames = rearrange(check_clips(clips), "b t h w c -> (b t) h w c")
        parts = (self.preprocessing(part.to(self.model.device)) for part in frames.split(self.batch))
        rows = [self.model.get_image_features(pixel_values=pixels).pooler_output for pixels in parts]
        return rearrange(normalize(torch.cat(rows).float(), dim=-1), "(b t) d -> b t d", b=clips.shape[0])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """B texts -> unit vectors (B, D); a text that stands there several times is encoded once."""
        unique = list(dict.fromkeys(texts))
        limit = self.model.config.text_config.max_position_embeddings
        rows = []
        for start in range(0, len(unique), self.batch):
            part = unique[start : start + self.batch]
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            tokens = tokens.to(self.model.device)
            features = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            rows.append(features.pooler_output)
        position = {text: index for index, text in enumerate(unique)}
        return normalize(torch.cat(rows).float(), dim=-1)[[position[text] for text in texts]]


def load_clip(path: str | Path | None = None, device: str = "cpu") -> ClipEncoder:
    """Loads a CLIP folder with tokenizer and preprocessor config; by default the shipped one.

    Raises:
        LofaError: the folder or one of its files is missing.
    """
    folder = metric_folder(path, "clip", "tokenizer_config.json")
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    encoder = ClipEncoder(model, AutoTokenizer.from_pretrained(folder), Preprocessing.load(folder))
    return encoder.requires_grad_(False).to(device)


class ClipScore(ClipMetric):
    """CLIP-T: mean over frames of the cosine of frame and text, in [-1, 1]; higher is better."""

    higher_is_better = True

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def rows(self, generated: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of uint8 clips (B, T, H, W, 3) and their B texts.

        Raises:
            ValueError: the numbers of clips and texts differ.
        """
        if len(prompts) != len(generated):
            raise ValueError(f"{len(generated)} clips but {len(prompts)} texts")
        images, texts = self.encoder.images(generated), self.encoder.texts(prompts)
        return torch.einsum("btd,bd->b", images, texts) / generated.shape[1]
