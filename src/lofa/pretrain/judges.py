"""The metric networks: a small CLIP and a small VideoMAE, trained on the world, with every class.

They judge what a predictor makes, so they see all classes, held-out ones too, but they share neither weights nor clips
(seeds) with anything that generates. Frames are blurred and made noisy at random, so that the soft pictures of a small
autoencoder are judged by what they show.
"""

import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, VideoMAEConfig, VideoMAEModel

from lofa.pretrain.fit import Schedule, fit
from lofa.worlds import ACTIONS, Clip, caption, sample_batch

__all__ = ["save_preprocessor", "train_clip", "train_video_network"]

_CLASSES = list(ACTIONS)


def _soften(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Random blur and noise on frames (N, 3, H, W) in [-1, 1]."""
    weight = float(rng.uniform(0, 0.9))
    blurred = F.avg_pool2d(frames, 3, stride=1, padding=1, count_include_pad=False)
    noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
    return frames + weight * (blurred - frames) + float(rng.uniform(0, 0.06)) * noise


def _frames(clips: list[Clip]) -> Tensor:
    """(B, T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def train_clip(
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    seed: int,
    console: Console,
    frames_per_clip: int = 4,
    looks_per_batch: int = 8,
) -> CLIPModel:
    """A CLIP whose mean frame-text cosine over a clip tells captions apart: the very number CLIP-T reports.

    Args:
        schedule: its batch is the number of clips a step, in `looks_per_batch` looks, so that actions must be told apart.
        frames_per_clip: frames drawn from each clip.
    """
    torch.manual_seed(seed)
    tower = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config=tower | text | {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0},
        vision_config=tower | {"num_hidden_layers": 3, "image_size": 64, "patch_size": 8},
        projection_dim=64,
    )
    model = CLIPModel(config)
    rng = np.random.default_rng(seed)
    per_look = schedule.batch // looks_per_batch

    def similarity_inputs(clips: list[Clip]) -> tuple[Tensor, Tensor]:
        video = _frames(clips)
        chosen = torch.from_numpy(rng.integers(video.shape[1], size=(len(clips), frames_per_clip)))
        frames = video[torch.arange(len(clips))[:, None], chosen].flatten(0, 1)
        images = model.get_image_features(pixel_values=_soften(frames, rng)).pooler_output
        means = F.normalize(images, dim=-1).unflatten(0, (len(clips), frames_per_clip)).mean(1)
        texts = [caption(clip.appearance, None if clip.action == "generic" else ACTIONS[clip.action], rng) for clip in clips]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        features = model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return means, F.normalize(features.pooler_output, dim=-1)

    def loss_of_step(step: int) -> Tensor:
        clips = _batch(rng, looks_per_batch, per_look)
        means, texts = similarity_inputs(clips)
        # the mean of unit vectors stays as it is: its length is part of the mean cosine
        logits = model.logit_scale.exp().clamp(max=60) * means @ texts.T
        goal = torch.arange(len(clips))
        return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2

    model.train()
    fit("CLIP", model.parameters(), schedule, loss_of_step, console)
    model.eval()
    with torch.no_grad():
        hits = []
        for _ in range(8):
            means, texts = similarity_inputs(_batch(rng, 1, 32))
            hits.append(((means @ texts.T).argmax(1) == torch.arange(32)).float().mean())
    console.print(f"CLIP finds the caption of a clip among 32 of one look: {100 * torch.stack(hits).mean():.0f} % (chance 3 %)")
    return model


def _batch(rng: np.random.Generator, looks: int, per_look: int) -> list[Clip]:
    """Clips of few looks and many classes; clips of one seed share their look."""
    names, seeds = [], []
    for _ in range(looks):
        names += [_CLASSES[i] for i in rng.choice(len(_CLASSES), per_look, replace=False)]
        seeds += [int(rng.integers(1 << 30, 1 << 31))] * per_look
    return sample_batch(names, seeds)


def train_video_network(
    schedule: Schedule, seed: int, console: Console, width: int, pool: int = 3000
) -> VideoMAEModel:
    """A video network that knows where every joint is in every frame, what class a clip belongs to, and what it looks like.

    Args:
        schedule: its batch is the number of clips a step, drawn from the pool.
        width: of the features.
        pool: clips rendered in advance, all classes and generic ones, softened anew at every visit.
    """
    torch.manual_seed(seed)
    config = VideoMAEConfig(
        image_size=64,
        patch_size=16,
        num_frames=16,
        tubelet_size=2,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    model = VideoMAEModel(config)
    rng = np.random.default_rng(seed)
    names = [None if rng.random() < 0.1 else _CLASSES[rng.integers(len(_CLASSES))] for _ in range(pool)]
    seeds = rng.integers(1 << 29, 1 << 30, size=pool).tolist()
    clips: list[Clip] = []
    for start in range(0, pool, 100):
        clips += sample_batch(names[start : start + 100], seeds[start : start + 100])
    keep = np.linspace(0, 16, 16).round().astype(int)
    video = torch.from_numpy(np.stack([clip.frames[keep] for clip in clips])).permute(0, 1, 4, 2, 3)
    joints = torch.from_numpy(np.stack([clip.joints[keep] for clip in clips])).flatten(1)
    joints = (joints - joints.mean(0)) / joints.std(0).clamp(min=1e-3)
    classes = torch.tensor([len(_CLASSES) if name is None else _CLASSES.index(name) for name in names])
    colours = video.float().mean((1, 3, 4)) / 255
    to_joints, to_class, to_colour = (
        nn.Linear(width, joints.shape[1]),
        nn.Linear(width, len(_CLASSES) + 1),
        nn.Linear(width, 3),
    )
    parts = nn.ModuleList([model, to_joints, to_class, to_colour])

    def features(index: Tensor) -> Tensor:
        frames = video[index].float() / 127.5 - 1
        softened = _soften(frames.flatten(0, 1), rng).view(frames.shape)
        return model(pixel_values=softened).last_hidden_state.mean(1)

    def loss_of_step(step: int) -> Tensor:
        index = torch.from_numpy(rng.integers(pool - 200, size=schedule.batch))
        h = features(index)
        return (
            F.mse_loss(to_joints(h), joints[index])
            + 0.25 * F.cross_entropy(to_class(h), classes[index])
            + F.mse_loss(to_colour(h), colours[index]) * 10
        )

    model.train()
    fit("video network", parts.parameters(), schedule, loss_of_step, console)
    model.eval()
    with torch.no_grad():
        h = features(torch.arange(pool - 200, pool))
        right = (to_class(h).argmax(1) == classes[-200:]).float().mean()
        error = F.mse_loss(to_joints(h), joints[-200:])
    console.print(f"video network on unseen clips: {100 * right:.0f} % of classes, {1 - error:.2f} of the joints' variance")
    return model


def save_preprocessor(folder: Path, size: int) -> None:
    """Writes the `preprocessor_config.json` of networks that take [-1, 1] pixels of `size`."""
    config = {
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
