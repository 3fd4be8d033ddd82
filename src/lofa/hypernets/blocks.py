"""The transformer blocks of the hypernetwork. Tokens are `(P, L, T, d)`: P prompts, L layers, T tokens of one layer.

    x <- x + g1 SelfAttention(LN x)        within one prompt and layer
    x <- x + g2 MLP(LN x)
    x <- x + g3 CrossAttention(LN x, c)    to the prompt's condition tokens, shared by its layers
    x <- x + g4 MLP(LN x)
Layers never see each other. Tokens that no prompt has touched yet come as `(1, L, T, d)` and grow to P at their first
cross-attention, so what depends on the weights alone is computed once for all prompts.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from einops import rearrange
from torch import Tensor, nn

from lofa.hypernets.attention import Attention

__all__ = ["Block", "ReadBlock", "compile_blocks", "mlp"]


class _LayerScale(nn.Module):
    """Multiplies by a learned vector, at first 1."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def mlp(d_model: int, ratio: float) -> nn.Sequential:
    """Two linear layers with an exact GELU between."""
    hidden = int(d_model * ratio)
    return nn.Sequential(OrderedDict(fc1=nn.Linear(d_model, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, d_model)))


class Block(nn.Module):
    """Self-attention, MLP, cross-attention to the condition, MLP; each a residual branch with pre-norm and scale.

    Without `reads` it has the first two alone, its own half.
    """

    def __init__(self, d_model: int, n_heads: int, mlp_ratio: float, qk_norm: bool = True, reads: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model, eps=1e-6)
        self.self_attn = Attention(d_model, n_heads, qk_norm)
        self.ls1 = _LayerScale(d_model)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6)
        self.mlp_sa = mlp(d_model, mlp_ratio)
        self.ls2 = _LayerScale(d_model)
        if reads:
            self.norm3 = nn.LayerNorm(d_model, eps=1e-6)
            self.cross_attn = Attention(d_model, n_heads, qk_norm, d_model)
            self.ls3 = _LayerScale(d_model)
            self.norm4 = nn.LayerNorm(d_model, eps=1e-6)
            self.mlp_ca = mlp(d_model, mlp_ratio)
            self.ls4 = _LayerScale(d_model)

    def forward(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None = None, own_half_done: bool = False
    ) -> Tensor:
        """`x (P or 1, L, T, d)`, projected condition `context (P, N, d)`, `mask (P, N)` -> `(P, L, T, d)`.

        Without a condition it stops after its own half; such a result goes on with `own_half_done`.
        """
        prompts, layers = x.shape[:2]
        if not own_half_done:
            x = rearrange(x, "p l t d -> (p l) t d")
            x = x + self.ls1(self.self_attn(self.norm1(x)))
            x = x + self.ls2(self.mlp_sa(self.norm2(x)))
            x = rearrange(x, "(p l) t d -> p l t d", p=prompts)
        if context is None:
            return x
        x = rearrange(x, "p l t d -> p (l t) d").expand(len(context), -1, -1)
        x = x + self.ls3(self.cross_attn(self.norm3(x), context, mask))
        x = x + self.ls4(self.mlp_ca(self.norm4(x)))
        return rearrange(x, "p (l t) d -> p l t d", l=layers)


class ReadBlock(nn.Module):
    """Reads the response tokens of the same prompt and layer: cross-attention without pre-norm, then an MLP."""

    def __init__(self, d_model: int, response_width: int, n_heads: int, mlp_ratio: float, qk_norm: bool = True) -> None:
        super().__init__()
        self.cross_attn = Attention(d_model, n_heads, qk_norm, response_width)
        self.ls1 = _LayerScale(d_model)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-6)
        self.mlp = mlp(d_model, mlp_ratio)
        self.ls2 = _LayerScale(d_model)

    def forward(self, x: Tensor, response: Tensor) -> Tensor:
        """`x (P, L, T, d)`, response tokens `(P, L, T', response_width)` -> `(P, L, T, d)`."""
        prompts = x.shape[0]
        x, response = rearrange(x, "p l t d -> (p l) t d"), rearrange(response, "p l t d -> (p l) t d")
        x = x + self.ls1(self.cross_attn(x, response))
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return rearrange(x, "(p l) t d -> p l t d", p=prompts)


def compile_blocks(network: nn.Module) -> None:
    """`torch.compile` for each block of a network, when it is first called; parameters and their names stay.

    One by one, as all blocks of a kind share what was compiled.
    """
    for module in network.modules():
        if isinstance(module, Block | ReadBlock):
            module.compile()
