"""The constructor values of WanTransformer3DModel, and what they say of its layers without building it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lofa.adapters.families.wan import WAN
from lofa.adapters.names import join_name
from lofa.backbones.networks import LayerSpec
from lofa.errors import BackboneError

__all__ = ["ATTENTION_KINDS", "Architecture", "wan_layers"]

ATTENTION_KINDS = tuple(kind for kind in WAN.kinds if kind.startswith(("attn1.to_", "attn2.to_")))
"""The layers LoFA adapts: q, k, v, o of self- and cross-attention."""


@dataclass(frozen=True)
class Architecture:
    """The values and defaults of diffusers' constructor."""

    patch_size: tuple[int, ...] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str | None = "rms_norm_across_heads"
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """That of a config.json; other keys don't count."""
        values = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        return cls(**values | {"patch_size": tuple(config.get("patch_size", cls.patch_size))})

    def size(self, kind: str) -> tuple[int, int] | None:
        """(out, in) of a block's layer of that kind; None where it has none."""
        width = self.num_attention_heads * self.attention_head_dim
        if kind not in WAN.kinds or ("add_" in kind and self.added_kv_proj_dim is None):
            return None
        out = self.ffn_dim if kind == "ffn.net.0.proj" else width
        inside = self.ffn_dim if kind == "ffn.net.2" else self.added_kv_proj_dim if "add_" in kind else width
        return out, inside or width


def wan_layers(architectures: Mapping[str, Architecture], kinds: Sequence[str]) -> list[LayerSpec]:
    """The layers of those kinds in component -> architecture, block by block; depth counts on through the components.

    Raises:
        BackboneError: a kind that there is not.
    """
    layers: list[LayerSpec] = []
    depth = 0
    for component, architecture in architectures.items():
        sizes = {kind: architecture.size(kind) for kind in kinds}
        for block in range(architecture.num_layers):
            for kind, size in sizes.items():
                if size is None:
                    raise BackboneError(f"backbone.kinds: no linear layer {kind!r}; there are {', '.join(WAN.kinds)}")
                layers.append(LayerSpec(join_name(component, WAN.layer_path(block, kind)), depth, kind, *size))
            depth += 1
    return layers
