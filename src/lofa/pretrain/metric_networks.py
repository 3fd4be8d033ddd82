"""The metric networks: a small CLIP and a small VideoMAE, trained on the world, with every class.

They measure what a predictor makes, so they see all classes, held-out ones too, but they share neither weights nor
clips (seeds) with anything that generates. Frames are blurred and made noisy at random, so that the soft pictures of a
small autoencoder are measured by what they show.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, VideoMAEConfig, VideoMAEModel

from lofa.files import write_json
from lofa.pretrain.fit import contrastive_loss, fit, share_found
from lofa.pretrain.options import Schedule
from lofa.worlds import ACTIONS, Clip, caption, sample_batch

__all__ = ["save_preprocessor", "train_clip", "train_video_network"]

_CLASSES = list(ACTIONS)
_SPREAD = 0.1  # deviation of initial weights; the classes' own 0.02 is made for widths of 768 and learns slowly here
_TOWER = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "initializer_range": _SPREAD}


class _Pool(NamedTuple):
    """Clips of few looks and many classes, rendered once.

    Attributes:
        video: uint8 (L, K, T, 3, 64, 64): L looks, K clips of each
        joints: (L, K, T, 30), standardised
    """

    video: Tensor
    joints: Tensor
    clips: list[list[Clip]]


def _draw_pool(looks: int, per_look: int, rng: np.random.Generator, first_seed: int) -> _Pool:
    """One clip in ten is generic, the others are of any class; clips of one seed share their look."""
    rows = []
    for seed in range(first_seed, first_seed + looks):
        chosen = rng.choice(len(_CLASSES), per_look, replace=False)
        names = [None if rng.random() < 0.1 else _CLASSES[i] for i in chosen]
        rows.append(sample_batch(names, [seed] * per_look))
    video = torch.from_numpy(np.stack([[clip.frames for clip in row] for row in rows]))
    joints = torch.from_numpy(np.stack([[clip.joints for clip in row] for row in rows])).flatten(3)
    joints = (joints - joints.mean((0, 1, 2))) / joints.std((0, 1, 2))
    return _Pool(video.permute(0, 1, 2, 5, 3, 4).contiguous(), joints, rows)


def _soften(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Random blur and noise on frames (N, 3, H, W) in [-1, 1]; one noise for all frames, new at every call."""
    weight = float(rng.uniform(0, 0.9))
    blurred = F.avg_pool2d(frames, 3, stride=1, padding=1, count_include_pad=False)
    noise = torch.from_numpy(rng.standard_normal(frames.shape[1:], dtype=np.float32))
    return torch.lerp(frames, blurred, weight) + float(rng.uniform(0, 0.06)) * noise


def _pixels(video: Tensor) -> Tensor:
    """uint8 to float in [-1, 1]."""
    return video.float() / 127.5 - 1


def train_clip(
    tokenizer: PreTrainedTokenizerFast, schedule: Schedule, seed: int, console: Console, looks: int = 120
) -> CLIPModel:
    """A CLIP whose mean frame-text cosine over a clip tells captions apart: the very number CLIP-T reports.

    Contrast alone learns colours at once and limbs hardly at all. So both towers also learn joints, with heads
    that are thrown away: the image tower of its frame, the text tower how they lie on average and how far they swing.

    Args:
        schedule: its batch is the number of clips a step, two frames of each.
        looks: looks in the pool of training clips, 20 clips of each.
    """
    config = CLIPConfig(
        text_config=_TOWER
        | {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "num_hidden_layers": 2}
        | {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0},
        vision_config=_TOWER | {"num_hidden_layers": 3, "image_size": 64, "patch_size": 8},
        projection_dim=64,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    rng = np.random.default_rng(seed)
    pool = _draw_pool(looks, 20, rng, first_seed=1 << 30)
    unseen = _draw_pool(8, 32, rng, first_seed=(1 << 30) + looks)
    of_frame, of_caption = nn.Linear(64, 30), nn.Linear(64, 60)

    def embed(
        pool: _Pool, rows: NDArray[np.integer], columns: NDArray[np.integer], frames_per_clip: int
    ) -> list[Tensor]:
        """Mean unit vector of each clip's frames (B, D), unit vector of its caption (B, D), error of the joints ()."""
        frames = rng.integers(pool.video.shape[2], size=(len(rows), frames_per_clip))
        pixels = _soften(_pixels(pool.video[rows[:, None], columns[:, None], frames].flatten(0, 1)), rng)
        seen = model.get_image_features(pixel_values=pixels).pooler_output
        images = F.normalize(seen, dim=-1)
        clips = [pool.clips[row][column] for row, column in zip(rows, columns, strict=True)]
        texts = [caption(clip.appearance, clip.action, rng) for clip in clips]
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        read = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
        whole = pool.joints[rows, columns]
        error = F.mse_loss(of_frame(seen), pool.joints[rows[:, None], columns[:, None], frames].flatten(0, 1))
        error = error + F.mse_loss(of_caption(read), torch.cat([whole.mean(1), 2 * whole.std(1)], -1))
        # the mean of unit vectors stays as it is: its length is part of the mean cosine
        return [images.unflatten(0, (len(rows), frames_per_clip)).mean(1), F.normalize(read, dim=-1), error]

    def loss_of_step(step: int) -> Tensor:
        # few looks, so that clips of a batch must be told apart by what the figure does
        per_look = schedule.batch // 8
        rows = rng.choice(looks, 8, replace=False).repeat(per_look)
        columns = np.concatenate([rng.choice(20, per_look, replace=False) for _ in range(8)])
        images, texts, error = embed(pool, rows, columns, 2)
        return contrastive_loss(images, texts, model.logit_scale.exp().clamp(max=60)) + error

    model.train()
    heads = [*of_frame.parameters(), *of_caption.parameters()]
    fit("CLIP", [*model.parameters(), *heads], schedule, loss_of_step, console)
    model.eval()
    with torch.no_grad():
        pairs = [embed(unseen, np.full(32, look), np.arange(32), 16)[:2] for look in range(8)]
    share = 100 * torch.stack([share_found(images, texts) for images, texts in pairs]).mean()
    console.print(f"CLIP finds the caption of an unseen clip among 32 of one look: {share:.0f} % (chance 3 %)")
    return model


def train_video_network(schedule: Schedule, seed: int, console: Console, width: int, looks: int = 240) -> VideoMAEModel:
    """A video network that knows where every joint is in every frame, what class a clip belongs to, and its colours.

    Args:
        schedule: its batch is the number of clips a step.
        width: of the features.
        looks: looks in the pool of training clips, 12 clips of each, softened anew at every visit.
    """
    config = VideoMAEConfig(
        image_size=64,
        patch_size=16,
        num_frames=16,
        tubelet_size=2,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        initializer_range=_SPREAD,
    )
    torch.manual_seed(seed)
    model = VideoMAEModel(config)
    rng = np.random.default_rng(seed)
    pool = _draw_pool(looks, 12, rng, first_seed=1 << 29)
    clips = [clip for row in pool.clips for clip in row]
    keep = torch.linspace(0, 16, 16).round().long()
    video = pool.video.flatten(0, 1)[:, keep]
    joints = pool.joints.flatten(0, 1)[:, keep].flatten(1)
    classes = torch.tensor([[*_CLASSES, None].index(clip.action) for clip in clips])
    colours = torch.stack([_pixels(clip).mean((0, 2, 3)) for clip in video])  # one by one: as floats the pool is huge
    unseen = torch.arange(len(clips) - 240, len(clips))
    to_joints, to_class, to_colour = (nn.Linear(width, size) for size in (joints.shape[1], len(_CLASSES) + 1, 3))

    def features(index: Tensor) -> Tensor:
        frames = _pixels(video[index])
        return model(pixel_values=_soften(frames.flatten(0, 1), rng).view(frames.shape)).last_hidden_state.mean(1)

    def loss_of_step(step: int) -> Tensor:
        index = torch.from_numpy(rng.integers(len(clips) - len(unseen), size=schedule.batch))
        h = features(index)
        return (
            F.mse_loss(to_joints(h), joints[index])
            + 0.25 * F.cross_entropy(to_class(h), classes[index])
            + 4 * F.mse_loss(to_colour(h), colours[index])
        )

    model.train()
    parts = nn.ModuleList([model, to_joints, to_class, to_colour])
    fit("video network", parts.parameters(), schedule, loss_of_step, console)
    model.eval()
    with torch.no_grad():
        h = features(unseen)
        right = 100 * (to_class(h).argmax(1) == classes[unseen]).float().mean()
        explained = 100 * (1 - F.mse_loss(to_joints(h), joints[unseen]))
    console.print(
        f"video network on unseen looks: {right:.0f} % of classes right, {explained:.0f} % of the joints' variance"
    )
    return model


def save_preprocessor(folder: Path) -> None:
    """Writes the `preprocessor_config.json` of networks that take [-1, 1] pixels of 64 x 64."""
    config = {"do_resize": True, "size": {"height": 64, "width": 64}, "resample": 2, "do_center_crop": False}
    config |= {"do_rescale": True, "rescale_factor": 1 / 255}
    config |= {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(folder / "preprocessor_config.json", config)
