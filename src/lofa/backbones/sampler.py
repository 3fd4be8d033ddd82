"""Sampling with classifier-free guidance, step for step what diffusers' pipelines compute, bit for bit.

    v = v_negative + guidance (v_prompt - v_negative)      x_{t-1} = scheduler.step(v, t, x_t)

where v is what the denoiser says of x_t, scaled as the scheduler wants it: a velocity, the noise.

The two sides of guidance go through the denoiser one after the other, so each has adapters of its own, and the
scheduler is a copy, so several samplings of one pipeline may run at the same time.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lofa.backbones.base import OnStep

__all__ = ["sample"]


def sample(
    scheduler: Any,
    sides: Sequence[Callable[[Tensor, Tensor], Tensor]],
    noise: Tensor,
    steps: int,
    guidance: float,
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoised latents (B, C, T, H, W) of noise of that shape.

    Args:
        scheduler: diffusers' own, left as it is
        sides: the denoiser, (x_t, timesteps (B,)) -> v, under the prompts; for guidance a second one, led away
            from
        noise, steps, guidance, on_step: as in `Backbone.generate`
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=noise.device)
    if hasattr(scheduler, "set_begin_index"):  # spares it a search by value
        scheduler.set_begin_index(0)
    scale = getattr(scheduler, "scale_model_input", lambda x_t, t: x_t)
    x_t = noise * getattr(scheduler, "init_noise_sigma", 1)
    for done, t in enumerate(scheduler.timesteps, 1):
        v, *negative = [side(scale(x_t, t), t.expand(len(x_t))) for side in sides]
        if negative:
            v = negative[0] + guidance * (v - negative[0])
        x_t = scheduler.step(v, t, x_t, return_dict=False)[0]
        if on_step is not None:
            on_step(done, len(scheduler.timesteps), x_t)
    return x_t
