"""The published hypernetworks, quirk for quirk: released checkpoints give the numbers they gave in their own code.

Stage 1 predicts which entries of a frozen weight a prompt's adapter moves, stage 2 the adapter. Parameter names are
those of the checkpoints.
What differs from `lofa.hypernets`, and is kept here alone:
    W is divided by its root-mean-square over the *output axis*, per input column
    zero-padded condition tokens are attended to (no mask): give all the tokens the checkpoint was trained with (512);
        as they are identical, one key stands for all of them, with the logarithm of their number on its logits
    the pooled mean includes [CLS]; without a [CLS] token it leaves out the first patch
    S = softplus(B A) is never negative; with out_act "sigmoid" S = (B A)^2
Gradient checkpointing is right here (the published code recomputes every block as the last one).
Source: the public implementation, GAP-LAB-CUHK-SZ/LoFA, arXiv 2512.08785.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lofa.adapters import LoraBatch
from lofa.errors import DataError
from lofa.files import read_tensors, read_torch
from lofa.hypernets import FrozenLayer, Prepared, Response
from lofa.hypernets.blocks import Block, ReadBlock
from lofa.hypernets.heads import upcast
from lofa.hypernets.layers import layer_ids, prepare
from lofa.hypernets.parts import Activation, Recomputation
from lofa.hypernets.tiling import PatchEmbed
from lofa.hypernets.trunk import TrunkBlocks
from lofa.interop.config import ReferenceConfig
from lofa.interop.quirks import collapse_padding, columns, fill_prompt, softplus

__all__ = ["ReferenceAdapter", "ReferenceAdapterNet", "ReferenceResponse", "ReferenceResponseNet", "load_hypernet"]

RESPONSE_ACTIVATIONS: dict[str, Activation] = {
    "softplus": softplus,
    "sigmoid": lambda product: (product.square(), 2 * product),
}
ALPHA_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "none": nn.Identity(),
}


@dataclass(frozen=True)
class ReferenceResponse:
    """Stage 1: final normalised tokens `(L, T, d)`, [CLS] first where there is one, which stage 2 reads; S and logits
    (S - tau) / temperature `(L, in_dim, in_dim)`; A `(L, r, in_dim)`, B `(L, in_dim, r)`."""

    tokens: Tensor
    S: Tensor
    logits: Tensor
    A: Tensor
    B: Tensor

    def probability(self) -> Tensor:
        """(L, in_dim, in_dim) that an entry responds; with softplus never below sigmoid(-tau / temperature)."""
        return self.logits.sigmoid()


@dataclass(frozen=True)
class ReferenceAdapter:
    """Stage 2: A `(L, r, in_dim)`, B `(L, in_dim, r)`, alpha `(L,)`, delta_w = alpha B A `(L, in_dim, in_dim)`."""

    A: Tensor
    B: Tensor
    alpha: Tensor
    delta_w: Tensor


class GridPosition(nn.Module):
    """Adds a learned vector of the row and one of the column."""

    def __init__(self, side: int, d_model: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.empty(1, side, 1, d_model))
        self.col = nn.Parameter(torch.empty(1, 1, side, d_model))
        nn.init.trunc_normal_(self.row, std=0.02)
        nn.init.trunc_normal_(self.col, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(L, rows, columns, d)` -> `(L, rows * columns, d)`."""
        return rearrange(tokens + self.row + self.col, "l r c d -> l (r c) d")


class _Trunk(TrunkBlocks):
    """What both stages share: tiles, places, blocks, pooling, the two low-rank heads."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        c = self.config = config
        self.run = Recomputation(c.gradient_checkpointing)
        self.patch_embed = PatchEmbed(c.patch_size, c.d_model)
        self.pos = GridPosition(c.input_size // c.patch_size, c.d_model)
        self.depth_embed = nn.Embedding(c.num_depth, c.d_model)
        self.type_embed = nn.Embedding(c.num_type, c.d_model)
        if c.has_cls:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, c.d_model))
        self.text_proj = nn.Linear(c.context_dim, c.d_model)
        self.blocks = nn.ModuleList(Block(c.d_model, c.n_heads, c.mlp_ratio, c.qk_norm) for _ in range(c.n_blocks))
        self.norm = nn.LayerNorm(c.d_model)
        self.head_A = nn.Linear(c.d_model, c.lora_rank * c.in_dim)
        self.head_B = nn.Linear(c.d_model, c.in_dim * c.lora_rank)

    def embed(self, layers: Sequence[FrozenLayer]) -> Tensor:
        """Tokens `(l, T, d)` of a chunk of layers, for `prepare`; ValueError on shapes and ids that don't fit."""
        c, shape = self.config, layers[0].shape
        if shape != (c.input_size, c.input_size):
            raise ValueError(f"weights must be ({c.input_size}, {c.input_size}); those of {layers[0].name} are {shape}")
        depth, kind = layer_ids(layers, c.num_depth, c.num_type)
        weights = torch.stack([layer.weight for layer in layers])
        tokens = self.pos(self.patch_embed(columns(weights.to(self.head_A.weight.dtype))))
        tokens = tokens + (self.depth_embed(depth) + self.type_embed(kind))[:, None]
        return torch.cat([self.cls_token.expand(len(layers), -1, -1), tokens], 1) if c.has_cls else tokens

    def project(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Text `(P, N, C)` with all its padding -> what `finish` takes."""
        text, bias = collapse_padding(context.to(self.head_A.weight.dtype))
        return self.text_proj(text), bias

    def _prepare(self, W: Tensor, depth_id: Tensor, type_id: Tensor, text_emb: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared tokens `(P, L / P, T, d)`, texts `(P, N, C)`: one for all layers, P = 1, or one for each, P = L."""
        width, text = self.config.context_dim, text_emb[None] if text_emb.ndim == 2 else text_emb
        if text.ndim != 3 or len(text) not in (1, len(W)) or text.shape[-1] != width:
            raise ValueError(
                f"text_emb must be (N, {width}), (1, N, {width}) or ({len(W)}, N, {width}); got {tuple(text_emb.shape)}"
            )
        ids = zip(W, depth_id.tolist(), type_id.tolist(), strict=True)
        ((prepared,),) = prepare([self], (FrozenLayer(str(number), *own) for number, own in enumerate(ids)))
        return rearrange(prepared.tokens, "one (p l) t d -> (one p) l t d", p=len(text)), text

    def _decode(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Final tokens (..., T, d) -> pooled vector (..., d), A (..., r, in), B (..., out, r)."""
        c = self.config
        h = tokens[..., 0, :] if c.decode_cls else tokens[..., 0 if c.has_cls else 1 :, :].mean(-2)
        A = rearrange(self.head_A(h), "... (r i) -> ... r i", r=c.lora_rank)
        B = rearrange(self.head_B(h), "... (o r) -> ... o r", r=c.lora_rank)
        return h, A, B


class ReferenceResponseNet(_Trunk):
    """Stage 1 of the published code."""

    def forward(self, W: Tensor, depth_id: Tensor, type_id: Tensor, text_emb: Tensor) -> ReferenceResponse:
        """`W (L, out, in)`, `depth_id (L,)`, `type_id (L,)`, `text_emb (N, C) | (1, N, C) | (L, N, C)`.

        Raises ValueError on wrong shapes.
        """
        prepared, text = self._prepare(W, depth_id, type_id, text_emb)
        tokens = self.finish(prepared, *self.project(text)).flatten(0, 1)
        _, A, B = self._decode(tokens)
        S, _ = self._activate(B @ A)
        return ReferenceResponse(tokens, S, (S - self.config.tau) / self.config.temperature, A, B)

    def tokens(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Tensor:
        """The final tokens `(P, L, T, d)` alone, of conditions `(P, N, C)`, whose padding counts."""
        return self.finish(prepared.tokens, *self.project(fill_prompt(context)))

    def respond(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Response:
        """The response of P prompts; arguments as in `tokens`."""
        tokens = self.tokens(prepared, context, lengths)
        _, A, B = self._decode(tokens)
        return Response(tokens, A, B, self.config.tau, self.config.temperature, prepared.layers, self._activate)

    @property
    def _activate(self) -> Activation:
        return RESPONSE_ACTIVATIONS[self.config.out_act]


class ReferenceAdapterNet(_Trunk):
    """Stage 2 of the published code."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__(config)
        c = config
        self.cross_attn_blocks = nn.ModuleDict(
            {str(i): ReadBlock(c.d_model, c.d_model, c.n_heads, c.mlp_ratio, c.qk_norm) for i in c.cross_attn_idxs}
        )
        self.head_alpha = nn.Linear(c.d_model, 1)

    def forward(
        self, W: Tensor, depth_id: Tensor, type_id: Tensor, text_emb: Tensor, stage1_tokens: Tensor
    ) -> ReferenceAdapter:
        """As stage 1, and `stage1_tokens (L, T, d)`: the tokens stage 1 returned for the same layers and text."""
        prepared, text = self._prepare(W, depth_id, type_id, text_emb)
        if stage1_tokens.ndim != 3 or stage1_tokens.shape[::2] != (len(W), self.config.d_model):
            raise ValueError(
                f"stage1_tokens must be ({len(W)}, T, {self.config.d_model}); got {tuple(stage1_tokens.shape)}"
            )
        made = self._weights(prepared, text, rearrange(stage1_tokens, "(p l) t d -> p l t d", p=len(text)))
        A, B, alpha = (value.flatten(0, 1) for value in made)
        return ReferenceAdapter(A, B, alpha, alpha[:, None, None] * (B @ A))

    def adapt(self, prepared: Prepared, context: Tensor, lengths: Tensor, response_tokens: Tensor) -> LoraBatch:
        """The adapters of P prompts; `context (P, N, C)`, whose padding counts, stage 1's tokens `(P, L, T, d)`."""
        A, B, alpha = self._weights(prepared.tokens, fill_prompt(context), response_tokens)
        return LoraBatch(upcast(A), upcast(B), upcast(alpha), prepared.layers)

    def _weights(self, prepared: Tensor, text: Tensor, stage1_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, A, B = self._decode(self.finish(prepared, *self.project(text), self.cross_attn_blocks, stage1_tokens))
        return A, B, ALPHA_ACTIVATIONS[self.config.alpha_act](self.head_alpha(h))[..., 0]


def load_hypernet(
    source: str | Path | Mapping[str, Tensor], stage: int, config: Mapping[str, Any]
) -> ReferenceResponseNet | ReferenceAdapterNet:
    """The published stage 1 or 2 with its weights, in the dtype they are stored in.

    source: a `.pth` (opened with weights only) or `.safetensors` state dict, or the dict itself. config: constructor
    values, defaults for the rest. Raises ConfigError naming a wrong constructor value; DataError naming a file that is
    no state dict, or listing the weights that are missing, unknown or of another shape.
    """
    settings = ReferenceConfig.read(stage, config)
    with torch.device("meta"):
        module = ReferenceResponseNet(settings) if stage == 1 else ReferenceAdapterNet(settings)
    state: Any
    if isinstance(source, Mapping):
        name, state = f"the stage {stage} state dict", {key: value.detach().clone() for key, value in source.items()}
    else:
        name, state = str(source), read_tensors(source) if Path(source).suffix == ".safetensors" else read_torch(source)
    try:
        module.load_state_dict(state, assign=True)
    except (TypeError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"{name}: does not fit a stage {stage} network of these constructor values ({words})") from None
    return module
