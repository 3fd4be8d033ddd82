"""The recipe of the shipped tiny models: everything from nothing, each part kept as soon as it is done.

    autoencoder, text encoder  ->  transformer          tiny-wan/      a diffusers WanPipeline folder
    CLIP, video network                                 tiny-metrics/  the metric networks

A part whose folder exists is not made again, so that an interrupted run goes on where it stopped.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from rich.console import Console
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from lofa.backbones import load_backbone
from lofa.files import atomic_write, read_json, write_json
from lofa.pretrain.base import new_transformer, train_transformer
from lofa.pretrain.metric_networks import save_preprocessor, train_clip, train_video_network
from lofa.pretrain.options import Recipe
from lofa.pretrain.text import new_text_encoder, new_tokenizer, train_text_encoder
from lofa.pretrain.vae import new_vae, normalise_latents, scenes, train_vae

__all__ = ["pretrain"]


def pretrain(out: Path, recipe: Recipe, console: Console) -> None:
    """Makes `out/tiny-wan` and `out/tiny-metrics`, or what is missing of them."""
    parts = out / "tiny-wan.parts"
    steps: dict[Path, Callable[[Path], None]] = {
        parts / "vae": lambda path: _vae(path, recipe, console),
        parts / "text": lambda path: _text(path, recipe, console),
        out / "tiny-wan": lambda path: _wan(path, parts, recipe, console),
        out / "tiny-metrics" / "clip": lambda path: _clip(path, parts / "text" / "tokenizer", recipe, console),
        out / "tiny-metrics" / "video": lambda path: _video(path, recipe, console),
    }
    for path, make in steps.items():
        if path.is_dir():
            console.print(f"{path.relative_to(out)}: is there")
            continue
        started = time.perf_counter()
        torch.manual_seed(recipe.seed)
        with atomic_write(path) as temporary:
            temporary.mkdir()
            make(temporary)
        console.print(f"{path.relative_to(out)}: {(time.perf_counter() - started) / 60:.1f} minutes")


def _vae(path: Path, recipe: Recipe, console: Console) -> None:
    vae = new_vae(recipe.vae_base, recipe.vae_latents)
    phases = {1: recipe.vae_images, 9: recipe.vae_short_clips, 17: recipe.vae_full_clips}
    train_vae(vae, phases, recipe.seed, console)
    normalise_latents(vae, scenes(64, 17, np.random.default_rng(recipe.seed + 2)))
    vae.half().save_pretrained(path)


def _text(path: Path, recipe: Recipe, console: Console) -> None:
    tokenizer = new_tokenizer(recipe.text_tokens)
    encoder = new_text_encoder(tokenizer, recipe.text_width, recipe.text_layers)
    train_text_encoder(tokenizer, encoder, recipe.text, recipe.seed, console)
    encoder.half().save_pretrained(path / "text_encoder")
    tokenizer.save_pretrained(path / "tokenizer")


def _wan(path: Path, parts: Path, recipe: Recipe, console: Console) -> None:
    """A pipeline folder of the trained parts and an untrained transformer, which is then trained."""
    WanPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(parts / "text" / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(parts / "text" / "text_encoder").half(),
        vae=AutoencoderKLWan.from_pretrained(parts / "vae", torch_dtype=torch.float16),
        transformer=new_transformer(recipe.heads, recipe.layers, recipe.vae_latents, recipe.text_width).half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.shift),
    ).save_pretrained(path)
    size = {"frames": 17, "height": 64, "width": 64}
    sampling = {"steps": recipe.sampling_steps, "guidance": recipe.guidance, "fps": 8}
    write_json(path / "lofa.json", size | sampling)
    backbone = load_backbone(path)
    train_transformer(backbone, recipe.transformer, recipe.clips, recipe.seed + 1, console)
    backbone.slots.remove()
    transformer = backbone.denoiser["transformer"]
    assert isinstance(transformer, WanTransformer3DModel)
    transformer.half().save_pretrained(path / "transformer")
    for file in path.rglob("*.json"):  # where this model was made is nobody's business
        values = read_json(file)
        if values.pop("_name_or_path", None) is not None:
            write_json(file, values)


def _clip(path: Path, words: Path, recipe: Recipe, console: Console) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(words)
    train_clip(tokenizer, recipe.clip, recipe.seed + 7, console).half().save_pretrained(path)
    tokenizer.save_pretrained(path)
    save_preprocessor(path)


def _video(path: Path, recipe: Recipe, console: Console) -> None:
    train_video_network(recipe.video, recipe.seed + 11, console, recipe.video_width).half().save_pretrained(path)
    save_preprocessor(path)
