"""Constructor values of the published hypernetworks, with their defaults.

Two keys that stand in the published configs and mean nothing are passed over; every other key is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from lofa.errors import ConfigError

__all__ = ["PROMPT_TOKENS", "ReferenceConfig"]

PROMPT_TOKENS = 512
"""What every prompt is zero-padded to, in files and networks."""

MEANINGLESS = ("_target_", "factorized")
STAGE_ONLY = {"tau": 1, "temperature": 1, "out_act": 1, "alpha_act": 2, "cross_attn_idxs": 2}
CHOICES = {"out_act": ("softplus", "sigmoid"), "alpha_act": ("softplus", "sigmoid", "none")}


@dataclass(frozen=True)
class ReferenceConfig:
    """Values of one stage. `in_dim` sizes the heads, `input_size` the tile grid; `decode_cls` implies `use_cls`."""

    context_dim: int = 4096
    in_dim: int = 1536
    input_size: int = 1536
    patch_size: int = 64
    d_model: int = 768
    n_heads: int = 12
    n_blocks: int = 8
    mlp_ratio: float = 4.0
    lora_rank: int = 32
    num_depth: int = 30
    num_type: int = 8
    qk_norm: bool = True
    use_cls: bool = True
    decode_cls: bool = False
    gradient_checkpointing: bool = True
    tau: float = 0.02
    temperature: float = 0.1
    out_act: str = "softplus"
    alpha_act: str = "softplus"
    cross_attn_idxs: tuple[int, ...] = (3, 7)

    @classmethod
    def read(cls, stage: int, values: Mapping[str, Any]) -> ReferenceConfig:
        """Checked values of stage 1 or 2; ConfigError naming the key that is unknown, of another type or range."""
        if stage not in (1, 2):
            raise ConfigError(f"the published hypernetwork has stage 1 and stage 2; got stage {stage!r}")
        types = {f.name: type(f.default) for f in fields(cls)}
        known = [name for name in types if STAGE_ONLY.get(name, stage) == stage]
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name in MEANINGLESS:
                continue
            if name not in known:
                near = get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"stage {stage} has no constructor value {name!r}.{hint} It takes: {', '.join(known)}"
                )
            checked[name] = _typed(name, value, types[name])
        config = cls(**checked)
        config._check()
        return config

    def _check(self) -> None:
        def require(right: bool, message: str) -> None:
            if not right:
                raise ConfigError(message)

        for name, choices in CHOICES.items():
            require(getattr(self, name) in choices, f"{name} must be one of {choices}; got {getattr(self, name)!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if type(field.default) in (int, float):
                require(value > 0, f"{field.name} must be positive; got {value!r}")
        require(
            self.input_size % self.patch_size == 0,
            f"patch_size {self.patch_size} does not divide input_size {self.input_size}",
        )
        require(self.d_model % self.n_heads == 0, f"n_heads {self.n_heads} does not divide d_model {self.d_model}")

    @property
    def has_cls(self) -> bool:
        """Whether a [CLS] token stands in front."""
        return self.use_cls or self.decode_cls


def _typed(name: str, value: Any, kind: type) -> Any:
    """The value as `kind`; a whole number passes for a float, a list for a tuple of whole numbers."""
    if kind is tuple and isinstance(value, Sequence) and all(type(v) is int for v in value):
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"constructor value {name} must be {kind.__name__}; got {value!r}")
    return value
