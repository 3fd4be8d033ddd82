"""Small random networks of the real classes, in the folders that the loaders read."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, VideoMAEConfig, VideoMAEModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

MAX_WORDS = 6
WORDS = ("wave", "jump", "figure", "person", "camera", "a", "the", "little", "small", "big", "large")


def make_clip(folder: Path) -> Path:
    """A CLIP of 32 x 32 images whose tokenizer knows `WORDS` and ends every text with its end mark."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": 4 + len(WORDS),
        "max_position_embeddings": MAX_WORDS,
        "eos_token_id": 3,
        "bos_token_id": 2,
    }
    vision = {**tower, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    marks = ("<pad>", "<unk>", "<s>", "</s>")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate((*marks, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)
    return folder


def make_video_features(folder: Path) -> Path:
    """A VideoMAE of 4 frames of 32 x 32, 16 features."""
    config = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    VideoMAEModel(config).save_pretrained(folder)
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
