"""Attention to the tokens themselves or to a context, by PyTorch or by flash-attn (`pip install "lofa[flash]"`).

Both products are exact; flash-attn wants a GPU and half precision, and may be faster there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
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
    """Multi-head attention of `x (G, T, d)` to itself, or to a context `(G, N, context_width)` where it has a width.

    Queries and keys are layer-normed per head. The product in use is no part of parameters or constructor values.
    """

    product: Product = staticmethod(_sdpa)

    def __init__(self, d_model: int, n_heads: int, qk_norm: bool, context_width: int | None = None) -> None:
        super().__init__()
        self.n_heads = n_heads
        if context_width is None:
            self.qkv = nn.Linear(d_model, 3 * d_model)
        else:
            self.q = nn.Linear(d_model, d_model)
            self.kv = nn.Linear(context_width, 2 * d_model)
        self.q_norm = nn.LayerNorm(d_model // n_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(d_model // n_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`mask (G, N)`: True where a context token is real, or what is added to the logits of its key; None: neither.

        A number n of identical tokens is one of them with log n added.
        """
        if context is None:
            q, k, v = rearrange(self.qkv(x), "g t (three h e) -> three g t h e", three=3, h=self.n_heads)
        else:
            q = rearrange(self.q(x), "g t (h e) -> g t h e", h=self.n_heads)
            k, v = rearrange(self.kv(context), "g n (two h e) -> two g n h e", two=2, h=self.n_heads)
        out = self.product(self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v, mask)
        projected: Tensor = self.proj(rearrange(out, "g t h e -> g t (h e)"))
        return projected


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
