"""Constructor values of the published hypernetworks, with their defaults.

Two keys that stand in the published configs and mean nothing are passed over; every other key is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lofa.errors import ConfigError, nearest
from lofa.options import Options, option

__all__ = ["PROMPT_TOKENS", "ReferenceConfig"]

PROMPT_TOKENS = 512
"""What every prompt is zero-padded to, in files and networks."""

MEANINGLESS = ("_target_", "factorized")
STAGE_ONLY = {"tau": 1, "temperature": 1, "out_act": 1, "alpha_act": 2, "cross_attn_idxs": 2}


@dataclass(frozen=True)
class ReferenceConfig(Options):
    """Values of one stage."""

    context_dim: int = option(4096, "features of a text token", least=1)
    in_dim: int = option(1536, "of the heads: side of a weight", least=1)
    input_size: int = option(1536, "of the tile grid: side of a weight", least=1)
    patch_size: int = option(64, "side of a tile", least=1)
    d_model: int = option(768, "width", least=1)
    n_heads: int = option(12, "attention heads", least=1)
    n_blocks: int = option(8, "blocks", least=1)
    mlp_ratio: float = option(4.0, "hidden width of the MLPs, times d_model", above=0)
    lora_rank: int = option(32, "rank", least=1)
    num_depth: int = option(30, "how many depths there are", least=1)
    num_type: int = option(8, "how many kinds of layers there are", least=1)
    qk_norm: bool = True
    use_cls: bool = True
    decode_cls: bool = option(False, "the heads read the [CLS] token, not the mean; implies use_cls")
    gradient_checkpointing: bool = True
    tau: float = option(0.02, "relative change that counts as a response", above=0)
    temperature: float = option(0.1, "of the logits", above=0)
    out_act: str = option("softplus", "of S", among=("softplus", "sigmoid"))
    alpha_act: str = option("softplus", "of alpha", among=("softplus", "sigmoid", "none"))
    cross_attn_idxs: tuple[int, ...] = (3, 7)

    @classmethod
    def read(cls, stage: int, values: Mapping[str, Any]) -> ReferenceConfig:
        """Checked values of stage 1 or 2; ConfigError naming the key that is unknown, of another type or range."""
        if stage not in (1, 2):
            raise ConfigError(f"the published hypernetwork has stage 1 and stage 2; got stage {stage!r}")
        known = [item.name for item in fields(cls) if STAGE_ONLY.get(item.name, stage) == stage]
        given = {str(name): value for name, value in values.items() if name not in MEANINGLESS}
        for name in given:
            if name not in known:
                raise ConfigError(f"stage {stage} has no constructor value {name!r}; {nearest(name, known)}")
        try:
            config: ReferenceConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
        except OmegaConfBaseException as error:
            name = str(error.full_key)
            raise ConfigError(f"constructor value {name}={given.get(name)}: {str(error).splitlines()[0]}") from None
        return config

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("patch_size", self.input_size % self.patch_size == 0, f"a divisor of input_size {self.input_size}")
        self.require("n_heads", self.d_model % self.n_heads == 0, f"a divisor of d_model {self.d_model}")

    @property
    def has_cls(self) -> bool:
        """Whether a [CLS] token stands in front."""
        return self.use_cls or self.decode_cls
