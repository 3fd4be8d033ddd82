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

from lofa import files
from lofa.adapters import LoraBatch
from lofa.errors import DataError
from lofa.hypernets import FrozenLayer, Prepared, Response
from lofa.hypernets.blocks import Block, ReadBlock, run_block
from lofa.hypernets.heads import upcast
from lofa.hypernets.parts import Activation
from lofa.hypernets.tiling import PatchEmbed, check_weights
from lofa.interop.config import ReferenceConfig
from lofa.interop.quirks import collapse_padding, columns, softplus

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
    """Stage 1. `T` tokens a layer, [CLS] first where there is one."""

    tokens: Tensor
    """(L, T, d), final and normalised: what stage 2 reads"""
    S: Tensor
    """(L, in_dim, in_dim), not negative"""
    logits: Tensor
    """(L, in_dim, in_dim), (S - tau) / temperature"""
    A: Tensor
    """(L, r, in_dim)"""
    B: Tensor
    """(L, in_dim, r)"""

    def probability(self) -> Tensor:
        """(L, in_dim, in_dim) that an entry responds; with softplus never below sigmoid(-tau / temperature)."""
        return self.logits.sigmoid()


@dataclass(frozen=True)
class ReferenceAdapter:
    """Stage 2."""

    A: Tensor
    """(L, r, in_dim)"""
    B: Tensor
    """(L, in_dim, r)"""
    alpha: Tensor
    """(L,)"""
    delta_w: Tensor
    """(L, in_dim, in_dim), alpha B A"""


class GridPosition(nn.Module):
    """Adds a learned vector of the row and one of the column."""

    def __init__(self, rows: int, columns: int, d_model: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.empty(1, rows, 1, d_model))
        self.col = nn.Parameter(torch.empty(1, 1, columns, d_model))
        nn.init.trunc_normal_(self.row, std=0.02)
        nn.init.trunc_normal_(self.col, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(L, rows, columns, d)` -> `(L, rows * columns, d)`."""
        return rearrange(tokens + self.row + self.col, "l r c d -> l (r c) d")


class _Trunk(nn.Module):
    """What both stages share: tiles, places, blocks, pooling, the two low-rank heads."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        c = self.config = config
        side = c.input_size // c.patch_size
        self.patch_embed = PatchEmbed(c.patch_size, c.d_model)
        self.pos = GridPosition(side, side, c.d_model)
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
        """Tokens `(l, T, d)` of a chunk of layers, for `lofa.hypernets`."""
        W = torch.stack([layer.weight for layer in layers])
        depth = torch.tensor([layer.depth for layer in layers], device=W.device)
        kind = torch.tensor([layer.kind for layer in layers], device=W.device)
        return self._embed(W, depth, kind, [layer.name for layer in layers])

    def begin(self, tokens: Tensor) -> Tensor:
        """Tokens `(L, T, d)` -> `(1, L, T, d)` at the first block's reading of the condition."""
        return self._run(self.blocks[0], tokens[None], None)

    def prepare(self, W: Tensor, depth_id: Tensor, type_id: Tensor) -> Tensor:
        """What depends on the weights alone: tokens `(1, L, T, d)` at the first block's reading of the condition.

        `W (L, out, in)`, `depth_id (L,)`, `type_id (L,)`. Raises ValueError on wrong shapes and ids, on weights
        that are not finite or have columns of zeros.
        """
        return self.begin(self._embed(W, depth_id, type_id, [str(number) for number in range(len(W))]))

    def _embed(self, W: Tensor, depth_id: Tensor, type_id: Tensor, names: Sequence[str]) -> Tensor:
        c = self.config
        if W.ndim != 3 or W.shape[1:] != (c.input_size, c.input_size):
            raise ValueError(f"W must be (L, {c.input_size}, {c.input_size}); got {tuple(W.shape)}")
        for name, ids, known in (("depth_id", depth_id, c.num_depth), ("type_id", type_id, c.num_type)):
            if ids.shape != W.shape[:1] or not bool(((ids >= 0) & (ids < known)).all()):
                raise ValueError(f"{name} must be ({len(W)},), each in 0..{known - 1}; got {ids.tolist()}")
        check_weights(W, names)
        tokens = self.pos(self.patch_embed(columns(W.to(self.head_A.weight.dtype))))
        tokens = tokens + (self.depth_embed(depth_id) + self.type_embed(type_id))[:, None]
        return torch.cat([self.cls_token.expand(len(W), -1, -1), tokens], 1) if c.has_cls else tokens

    def finish(
        self, prepared: Tensor, text_emb: Tensor, between: Callable[[int, Tensor], Tensor] | None = None
    ) -> Tensor:
        """Final tokens `(P, L, T, d)` from those of `prepare`, for `text_emb (P, N, C)` with all its padding.

        `prepared (1, L, T, d)` serves all prompts, `(P, L, T, d)` has layers of its own for each; `between` is given
        (number, tokens) after each block and may change the tokens.
        """
        text, bias = collapse_padding(text_emb.to(self.head_A.weight.dtype))
        context, x = self.text_proj(text), prepared
        for i, block in enumerate(self.blocks):
            x = self._run(block, x, context, bias, i == 0)
            x = between(i, x) if between else x
        normalised: Tensor = self.norm(x)
        return normalised

    def _layered(self, prepared: Tensor, text_emb: Tensor) -> tuple[Tensor, Tensor]:
        """One text for all layers, or one for each: prepared tokens and texts (P, N, C) that go together."""
        layers, width = prepared.shape[1], self.config.context_dim
        text = text_emb[None] if text_emb.ndim == 2 else text_emb
        if text.ndim != 3 or len(text) not in (1, layers) or text.shape[-1] != width:
            raise ValueError(
                f"text_emb must be (N, {width}), (1, N, {width}) or ({layers}, N, {width}); got {tuple(text_emb.shape)}"
            )
        return rearrange(prepared, "one (p l) t d -> (one p) l t d", p=len(text)), text

    def _run(self, module: nn.Module, *inputs: Tensor | bool | None) -> Tensor:
        return run_block(module, *inputs, recompute=self.config.gradient_checkpointing)

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
        tokens = self.finish(*self._layered(self.prepare(W, depth_id, type_id), text_emb)).flatten(0, 1)
        _, A, B = self._decode(tokens)
        S, _ = self._activate(B @ A)
        return ReferenceResponse(tokens, S, (S - self.config.tau) / self.config.temperature, A, B)

    def tokens(self, prepared: Prepared, context: Tensor, lengths: Tensor) -> Tensor:
        """The final tokens `(P, L, T, d)` alone; `context (P, N, C)` with all its padding, whatever the lengths."""
        return self.finish(prepared.tokens, context)

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
        prepared, text = self._layered(self.prepare(W, depth_id, type_id), text_emb)
        if stage1_tokens.ndim != 3 or stage1_tokens.shape[::2] != (len(W), self.config.d_model):
            raise ValueError(
                f"stage1_tokens must be ({len(W)}, T, {self.config.d_model}); got {tuple(stage1_tokens.shape)}"
            )
        made = self._weights(prepared, text, rearrange(stage1_tokens, "(p l) t d -> p l t d", p=len(text)))
        A, B, alpha = (value.flatten(0, 1) for value in made)
        return ReferenceAdapter(A, B, alpha, alpha[:, None, None] * (B @ A))

    def adapt(self, prepared: Prepared, context: Tensor, lengths: Tensor, response_tokens: Tensor) -> LoraBatch:
        """The adapters of P prompts; `context (P, N, C)` with all its padding, stage 1's tokens `(P, L, T, d)`."""
        A, B, alpha = self._weights(prepared.tokens, context, response_tokens)
        return LoraBatch(upcast(A), upcast(B), upcast(alpha), prepared.layers)

    def _weights(self, prepared: Tensor, text: Tensor, stage1_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def read(i: int, x: Tensor) -> Tensor:
            if str(i) not in self.cross_attn_blocks:
                return x
            return self._run(self.cross_attn_blocks[str(i)], x, stage1_tokens.to(x.dtype))

        h, A, B = self._decode(self.finish(prepared, text, read))
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
    name = f"the stage {stage} state dict" if isinstance(source, Mapping) else str(source)
    state = dict(source) if isinstance(source, Mapping) else _read_state(Path(source))
    _check_weights(name, stage, state, {key: tuple(value.shape) for key, value in module.state_dict().items()})
    module.load_state_dict({key: value.detach().clone() for key, value in state.items()}, assign=True)
    return module


def _read_state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(files.read_tensors(path))
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a checkpoint of the published hypernetwork (.pth or .safetensors)")
    state = files.read_torch(path)
    if not isinstance(state, Mapping):
        raise DataError(f"{path}: holds a {type(state).__name__}, not a state dict of named tensors")
    return dict(state)


def _check_weights(name: str, stage: int, state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "not a tensor": sorted(
            key for key, value in state.items() if key in expected and not isinstance(value, Tensor)
        ),
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, expected {shape}"
            for key, shape in expected.items()
            if isinstance(state.get(key), Tensor) and tuple(state[key].shape) != shape
        ],
    }
    if any(wrong.values()):
        lists = "; ".join(f"{what}: {', '.join(map(str, keys))}" for what, keys in wrong.items() if keys)
        raise DataError(f"{name} does not fit a stage {stage} network of these constructor values. Weights {lists}")
