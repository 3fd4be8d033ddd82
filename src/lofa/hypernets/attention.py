"""The one product of attention, by PyTorch or by flash-attn (optional: `pip install "lofa[flash]"`).

Both are exact; flash-attn wants a GPU and half precision, and may be faster there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ATTENTION", "Attention", "use_attention"]

Product = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""q (G, T, h, e), k and v (G, N, h, e), mask (G, N) -> (G, T, h, e)."""


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (value.transpose(1, 2) for value in (q, k, v))
    bias = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    import flash_attn

    if mask is None:
        dense: Tensor = flash_attn.flash_attn_func(q, k, v)
        return dense
    if mask.dtype != torch.bool:
        return _sdpa(q, k, v, mask)  # keys that stand for several, in the published networks alone
    lengths = mask.sum(1, dtype=torch.int32)
    ends = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    rows = torch.arange(len(q) + 1, device=q.device, dtype=torch.int32) * q.shape[1]
    packed: Tensor = flash_attn.flash_attn_varlen_func(
        q.flatten(0, 1), k[mask], v[mask], rows, ends, q.shape[1], int(lengths.max())
    )
    return packed.unflatten(0, q.shape[:2])


ATTENTION: dict[str, Product] = {"sdpa": _sdpa, "flash_attn": _flash_attn}
"""What `hypernet.attention` may be."""


class Attention(nn.Module):
    """A module with attention in it; which product it uses is no part of its parameters or constructor values."""

    product: Product = staticmethod(_sdpa)


def use_attention(network: nn.Module, name: str) -> None:
    """Makes every attention of `network` use a product of `ATTENTION`.

    Raises ValueError on an unknown name, ImportError where its package is missing.
    """
    if name not in ATTENTION:
        raise ValueError(f"attention {name!r} is none of {', '.join(ATTENTION)}")
    if name == "flash_attn":
        import flash_attn  # noqa: F401
    for module in network.modules():
        if isinstance(module, Attention):
            module.product = ATTENTION[name]
