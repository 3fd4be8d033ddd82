"""CLIP-T and video features on small random networks of the real classes, saved and loaded as folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, VideoMAEModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lofa.errors import LofaError
from lofa.metrics import ClipScore, load_clip, load_video_features
from lofa.metrics.pixels import Preprocessing
from tests.metrics.networks import MAX_WORDS, make_clip, make_video_features


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video_features(tmp_path_factory.mktemp("video"))


def clips(count: int = 4, frames: int = 5, height: int = 40, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def test_clip_scores_are_mean_cosines_and_do_not_depend_on_the_batch(clip_folder: Path) -> None:
    """Beside transformers' own forward, one text and one frame at a time."""
    encoder, seen = load_clip(clip_folder), clips(height=32, width=32)
    texts = ["wave", "a jump", "the little figure", "wave"]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    mean, std = (torch.tensor(value) for value in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    expected = []
    for clip, text in zip(seen, texts, strict=True):
        cosines = []
        for frame in clip:
            pixels = ((frame / 255 - mean) / std).permute(2, 0, 1)[None]
            with torch.no_grad():
                out = model(input_ids=tokenizer(text, return_tensors="pt").input_ids, pixel_values=pixels)
            cosines.append(float(out.image_embeds[0] @ out.text_embeds[0]))  # unit vectors
        expected.append(np.mean(cosines))
    metric = ClipScore(encoder)
    scores = metric.rows(seen, texts)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01
    encoder.batch = 3
    assert torch.allclose(scores, metric.rows(seen, texts), atol=1e-6)
    metric.update(seen[:1], prompts=texts[:1])
    metric.update(seen[1:], prompts=texts[1:])
    assert float(metric.compute()) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_s_vector_does_not_depend_on_the_longer_texts_beside_it(clip_folder: Path, side: str) -> None:
    """Padding is not attended to, on whichever side a tokenizer puts it."""
    encoder = load_clip(clip_folder)
    encoder.tokenizer.padding_side = side
    if side == "left":  # where positions count from the padding, they must not matter here
        encoder.model.text_model.embeddings.position_embedding.weight.data.zero_()
    texts = ["a wave", "the little figure jump", "jump"]
    together = encoder.texts(texts)
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(row, encoder.texts([text])[0])
    assert not torch.allclose(together[0], together[2], atol=1e-3)


def test_texts_are_cut_at_the_tokenizer_limit(clip_folder: Path) -> None:
    encoder = load_clip(clip_folder)
    long = encoder.texts(["wave " * MAX_WORDS, "wave " * 60])
    assert torch.allclose(long[0], long[1])
    with pytest.raises(ValueError, match="4 clips but 1 texts"):
        ClipScore(encoder).rows(clips(), ["wave"])


@pytest.mark.parametrize(("height", "width"), [(40, 48), (32, 32), (90, 33)])
def test_pixels_agree_with_the_processor_up_to_its_rounding(clip_folder: Path, height: int, width: int) -> None:
    frames = clips(1, 3, height, width)[0]
    ours = Preprocessing.load(clip_folder)(frames)
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    theirs = np.stack(processor(images=list(frames.numpy()))["pixel_values"])
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).mean() < 0.01


@pytest.mark.parametrize(("frames", "drawn"), [(5, [0, 1, 3, 4]), (9, [0, 3, 5, 8]), (2, [0, 0, 1, 1]), (1, [0] * 4)])
def test_video_features_are_the_mean_token_of_frames_drawn_evenly(
    video_folder: Path, frames: int, drawn: list[int]
) -> None:
    """From the first to the last frame, beside the plain model on pixels in [-1, 1]."""
    features, seen = load_video_features(video_folder), clips(frames=frames, height=32, width=32)
    model = VideoMAEModel.from_pretrained(video_folder).eval()
    pixels = (seen[:, drawn].double() / 127.5 - 1).permute(0, 1, 4, 2, 3).float()
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state.sum(1) / 8  # 2 x 2 patches, 2 tubes of 2 frames
    values = features(seen)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(values[0], values[1], atol=1e-3) and not values.requires_grad
    features.batch = 3
    assert torch.allclose(values, features(seen), atol=1e-6)


def test_missing_folders_and_files_are_named(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LofaError, match="nowhere.*does not exist"):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(LofaError, match=r"lacks .*preprocessor_config\.json"):
        load_video_features(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(LofaError, match="image_mean"):
        Preprocessing.load(tmp_path)


def test_clips_of_a_wrong_kind_are_refused(video_folder: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        load_video_features(video_folder)(clips().float())
