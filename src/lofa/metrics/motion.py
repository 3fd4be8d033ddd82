"""Dynamic Degree: the share of clips in which something moves enough.

VBench (Huang et al., arXiv 2311.17982): a frame pair moves by the mean of the largest 5 % of its optical flow; it is
lively if that is above 6 px at a short side of 256; a clip is dynamic if at least a quarter of its frame pairs are
lively, at 8 frames a second. VBench takes the flow from RAFT; any flow function can be handed in here.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from lofa.metrics.pixels import check_clips
from lofa.metrics.rows import ClipMetric

__all__ = ["DynamicDegree", "block_flow", "top_flow"]


def block_flow(clips: Tensor, reach: int = 4, window: int = 7) -> Tensor:
    """Optical flow by block matching: the whole-pixel shift with the least absolute difference in a window.

    Args:
        clips: uint8 (B, T, H, W, 3); matched at a short side of at most 64 px, the flow is in pixels of the clip.
        reach: largest shift along an axis, in pixels of that size.
        window: side of the compared window, odd.

    Returns:
        (B, T-1, 2, h, w), x before y. Ties, as on flat areas, go to the smaller shift.
    """
    pixels = rearrange(check_clips(clips), "b t h w c -> (b t) c h w").float().div(255)
    scale = max(1.0, min(pixels.shape[-2:]) / 64)
    if scale > 1:
        pixels = interpolate(pixels, scale_factor=1 / scale, mode="bilinear", antialias=True)
    frames = rearrange(pixels, "(b t) c h w -> b t c h w", b=clips.shape[0])
    before, after = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    height, width = after.shape[-2:]
    padded = torch.nn.functional.pad(after, (reach,) * 4, mode="replicate")
    best = torch.full((before.shape[0], height, width), torch.inf, device=clips.device)
    flow = torch.zeros(before.shape[0], 2, height, width, device=clips.device)
    half = window // 2
    span = range(-reach, reach + 1)
    for dx, dy in sorted(((x, y) for x in span for y in span), key=lambda shift: shift[0] ** 2 + shift[1] ** 2):
        moved = padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        difference = (before - moved).abs().mean(1, keepdim=True)
        rows = avg_pool2d(difference, (window, 1), stride=1, padding=(half, 0))
        cost = avg_pool2d(rows, (1, window), stride=1, padding=(0, half)).squeeze(1)
        better = cost < best - 1e-3  # a gain below a quarter of a grey level is noise
        best = torch.where(better, cost, best)
        flow = torch.where(better[:, None], flow.new_tensor([dx, dy]).view(1, 2, 1, 1), flow)
    return rearrange(flow * scale, "(b t) d h w -> b t d h w", b=clips.shape[0])


def top_flow(flow: Tensor) -> Tensor:
    """Mean length of the largest 5 % of the flow vectors (B, T, 2, h, w) of each frame pair: (B, T), in pixels."""
    lengths = flow.norm(dim=2).flatten(2)
    return lengths.topk(max(1, int(0.05 * lengths.shape[-1])), dim=-1).values.mean(-1)


class DynamicDegree(ClipMetric):
    """Share of dynamic clips in [0, 1].

    Args:
        flow: uint8 clips (B, T, H, W, 3) -> flow (B, T-1, 2, h, w) in pixels of the clip.
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def __init__(self, flow: Callable[[Tensor], Tensor] = block_flow) -> None:
        super().__init__()
        self.flow = flow

    def rows(self, generated: Tensor) -> Tensor:
        """1 for a dynamic clip, 0 for another: (B,), of uint8 clips (B, T, H, W, 3).

        Raises:
            ValueError: clips of a single frame.
        """
        if generated.ndim == 5 and generated.shape[1] < 2:
            raise ValueError("a single frame has no motion: give clips of at least two frames")
        with torch.no_grad():
            lively = top_flow(self.flow(generated)) > 6 / 256 * min(generated.shape[2:4])
        return (lively.float().mean(1) >= 0.25).double()
