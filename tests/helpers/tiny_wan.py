"""A WanPipeline of random weights, seconds to make and small enough for every test."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

MAX_TOKENS = 48
SAMPLING = {"frames": 5, "height": 32, "width": 32, "steps": 2, "guidance": 3.0, "fps": 8.0}


def make_tiny_wan(folder: Path, seed: int = 0, experts: int = 1) -> Path:
    """Writes the pipeline to `folder`: 2 blocks, 4 heads x 24 = 96 wide, text width 64, 16 latent channels, /8 and /4.

    With two experts it is a Wan 2.2, whose transformers part at the level 0.875. The same seed gives the same weights;
    another seed is another backbone of the same shape.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = WanPipeline(
            tokenizer=_tokenizer(),
            text_encoder=_text_encoder(),
            vae=_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
            transformer=_transformer(),
            transformer_2=_transformer() if experts == 2 else None,
            boundary_ratio=0.875 if experts == 2 else None,
        )
    pipeline.save_pretrained(folder)
    (folder / "lofa.json").write_text(json.dumps(SAMPLING))
    return folder


def _tokenizer() -> T5Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz,.!?'\"-()0123456789"
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, "▁a", "▁the", "▁figure", "▁left", "▁right", "▁arm", "▁waves"]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(index) / 10) for index, piece in enumerate(pieces)], extra_ids=0)
    tokenizer.model_max_length = MAX_TOKENS
    return tokenizer


def _text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(vocab_size=64, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
    return UMT5EncoderModel(config).eval()


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=8,
    ).eval()


def _transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_layers=2, num_attention_heads=4, attention_head_dim=24, ffn_dim=128, text_dim=64, freq_dim=32
    ).eval()
