"""CLIP-T and video features on small random networks of the real classes, saved and loaded as folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, VideoMAEConfig, VideoMAEModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lofa.errors import LofaError
from lofa.metrics import ClipScore, clip_scores, load_clip, load_video_features
from lofa.metrics.pixels import Preprocessing


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 8, "max_position_embeddings": 6, "eos_token_id": 3, "bos_token_id": 2}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "wave": 4, "jump": 5, "</s>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    config = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    VideoMAEModel(config).save_pretrained(folder)
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


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


def test_texts_are_cut_at_the_tokenizer_limit_and_counted(clip_folder: Path) -> None:
    encoder = load_clip(clip_folder)
    long = encoder.texts(["wave " * 6, "wave " * 60])
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
    repeated = clips(1, frames=4).repeat_interleave(2, 1)[:, :7]
    assert features(repeated).shape == (1, 16)


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
