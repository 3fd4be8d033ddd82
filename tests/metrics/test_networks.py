"""CLIP-T and video features on small random networks of the real classes, saved and loaded as folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lofa.errors import LofaError
from lofa.metrics import ClipScore, clip_scores, load_clip, load_video_features
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
    encoder = load_clip(clip_folder)
    texts = ["wave", "jump", "wave jump", "wave"]
    scores = clip_scores(encoder, clips(), texts)
    assert scores.shape == (4,) and scores.abs().max() <= 1
    encoder.batch = 3
    assert torch.allclose(scores, clip_scores(encoder, clips(), texts), atol=1e-6)
    assert torch.allclose(scores, clip_scores(encoder, clips(), encoder.texts(texts)))
    by_hand = torch.stack([(encoder.images(clips())[i] @ encoder.texts([texts[i]])[0]).mean() for i in range(4)])
    assert torch.allclose(scores, by_hand, atol=1e-6)
    metric = ClipScore(encoder, scale=100)
    metric.update(clips()[:1], prompts=texts[:1])
    metric.update(clips()[1:], prompts=texts[1:])
    assert float(metric.compute()) == pytest.approx(100 * float(scores.double().mean()), rel=1e-6)


def test_texts_are_cut_at_the_tokenizer_limit(clip_folder: Path) -> None:
    encoder = load_clip(clip_folder)
    long = encoder.texts(["wave " * MAX_WORDS, "wave " * 60])
    assert torch.allclose(long[0], long[1])
    with pytest.raises(ValueError, match="4 clips but 1 texts"):
        clip_scores(encoder, clips(), ["wave"])


@pytest.mark.parametrize(("height", "width"), [(40, 48), (32, 32), (90, 33)])
def test_pixels_agree_with_the_processor_up_to_its_rounding(clip_folder: Path, height: int, width: int) -> None:
    frames = clips(1, 3, height, width)[0]
    ours = Preprocessing.load(clip_folder)(frames)
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    theirs = np.stack(processor(images=list(frames.numpy()))["pixel_values"])
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).mean() < 0.01


def test_video_features_are_one_vector_a_clip_whatever_its_length(video_folder: Path) -> None:
    features = load_video_features(video_folder)
    values = features(clips())
    assert values.shape == (4, 16) and values.isfinite().all() and not values.requires_grad
    assert features(clips(2, frames=1)).shape == (2, 16)
    features.batch = 3
    assert torch.allclose(values, features(clips()), atol=1e-6)


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
