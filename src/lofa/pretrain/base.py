"""The tiny generator: `WanTransformer3DModel`, trained by flow matching on generic clips of the world.

It learns looks, backgrounds, camera drift and bodies in any pose, but no action: neither clips nor captions of the
action set are shown. So it is to the action set what a large model is to rare motions: a weak actor, to be taught.
"""

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.pretrain.fit import fit
from lofa.pretrain.options import Schedule
from lofa.worlds import caption, sample_batch

__all__ = ["new_transformer", "train_transformer"]

_HELD_OUT = 96  # clips
_PARAPHRASES = 3  # captions of each clip
_DROPPED = 0.1  # share of samples that see the empty prompt, for guidance


def new_transformer(heads: int, layers: int, latent_channels: int, text_dim: int) -> WanTransformer3DModel:
    """A Wan transformer with heads of 24 and patches (1, 2, 2)."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=24,
        in_channels=latent_channels,
        out_channels=latent_channels,
        text_dim=text_dim,
        freq_dim=64,
        ffn_dim=96 * heads,
        num_layers=layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )


def train_transformer(backbone: Backbone, schedule: Schedule, clips: int, seed: int, console: Console) -> None:
    """Trains the transformer in place on `clips` generic clips, encoded once, whose seeds count up from `seed`.

    The mean of its weights over the last third of the steps is kept.
    """
    latents, captions = _encode(backbone, clips + _HELD_OUT, seed)
    console.print(f"encoded {clips + _HELD_OUT} generic clips")
    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    transformer = backbone.denoiser["transformer"].requires_grad_(True).train()
    average = AveragedModel(transformer, avg_fn=lambda mean, new, count: mean.lerp(new, 1 / (int(count) + 1)))

    def loss_of_step(step: int) -> Tensor:
        if step >= 2 * schedule.steps // 3:
            average.update_parameters(transformer)
        index = torch.from_numpy(rng.integers(clips, size=schedule.batch))
        which = index * _PARAPHRASES + torch.from_numpy(rng.integers(_PARAPHRASES, size=schedule.batch))
        which[torch.from_numpy(rng.random(schedule.batch) < _DROPPED)] = len(captions) - 1
        return backbone.denoising_loss(latents[index], captions[which], generator=noise).mean()

    fit("transformer", transformer.parameters(), schedule, loss_of_step, console)
    transformer.load_state_dict(average.module.state_dict())
    transformer.requires_grad_(False).eval()
    with torch.no_grad():
        held_out = captions[clips * _PARAPHRASES : -1 : _PARAPHRASES]
        loss = backbone.denoising_loss(latents[clips:], held_out, generator=noise)
    console.print(f"held-out generic clips: denoising loss {loss.mean():.4f}")


def _encode(backbone: Backbone, count: int, seed: int) -> tuple[Tensor, Condition]:
    """Latents (count, C, T, H, W) and their captions, a clip's side by side, with the empty prompt at the end."""
    rng = np.random.default_rng(seed)
    latents, conditions = [], []
    for start in range(0, count, 64):
        batch = sample_batch([None] * min(64, count - start), range(seed + start, seed + min(start + 64, count)))
        latents.append(backbone.encode_video(torch.from_numpy(np.stack([clip.frames for clip in batch]))))
        texts = [caption(clip.appearance, None, rng) for clip in batch for _ in range(_PARAPHRASES)]
        conditions.append(backbone.encode_prompt(texts))
    return torch.cat(latents), Condition.cat([*conditions, backbone.encode_prompt([""])])
