"""Constructor values of the hypernetworks. Each is spelled once; configurations, files and constructors share them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from lofa.options import REQUIRED, Options, option

__all__ = ["AdapterConfig", "HypernetOptions", "ResponseConfig", "TrunkConfig"]


@dataclass(frozen=True, kw_only=True)
class _TrunkOptions(Options):
    """What a user chooses of a trunk."""

    patch_size: int = option(
        REQUIRED, "side of the tiles a weight is cut into, nearly: of each axis the divisor nearest to it", least=1
    )
    d_model: int = option(REQUIRED, "width", least=1)
    n_heads: int = option(REQUIRED, "attention heads", least=1)
    n_blocks: int = option(REQUIRED, "blocks", least=1)
    mlp_ratio: float = option(4.0, "hidden width of the MLPs, times d_model", above=0)
    lora_rank: int = option(REQUIRED, "rank r of the predicted pairs", least=1)
    head: str = option("published", "what makes the pairs of a layer from its tokens: published")
    condition_from: int = option(0, "first block that reads the condition; what is before depends on W alone", least=0)
    gradient_checkpointing: bool = option(False, "trade time for memory")


@dataclass(frozen=True, kw_only=True)
class _ResponseOptions(Options):
    tau: float = option(0.02, "stage 1: relative change that counts as a response", least=0)
    temperature: float = option(0.1, "stage 1: of the logits", above=0)


@dataclass(frozen=True, kw_only=True)
class _AdapterOptions(Options):
    read_after: tuple[int, ...] = option(REQUIRED, "two_stage: blocks of stage 2 after which stage 1's tokens are read")
    alpha_init: float = option(0.1, "stage 2: alpha at the start", above=0)


@dataclass(frozen=True, kw_only=True)
class HypernetOptions(_AdapterOptions, _ResponseOptions, _TrunkOptions):
    """conf/hypernet."""

    kind: str = option(
        "two_stage",
        "two_stage; single_stage: without a response map; and to compare with: text_to_lora (an MLP of the condition), "
        "prompt_tokens (its tokens in the place of the weights), lightweight (coefficients in fixed bases)",
    )
    attention: str = option(
        "sdpa", "sdpa (PyTorch's own) or flash_attn (a GPU, half precision, pip install lofa[flash])"
    )
    compile: bool = option(False, "torch.compile the blocks: half a minute at the start; measure whether it pays")
    quirks: tuple[str, ...] = option(
        (),
        "mistakes of the published network to train with, for comparison: columns, softplus, first_tile, padding, "
        "last_block",
    )


@dataclass(frozen=True, kw_only=True)
class TrunkConfig(_TrunkOptions):
    """Values of a trunk. Raises ConfigError on one out of range, ValueError on sizes that contradict each other."""

    shapes: tuple[tuple[int, int], ...]
    """(out, in) of the adapted layers, each once"""
    num_depths: int
    """how many values `depth` takes"""
    num_kinds: int
    """how many values `kind` takes"""
    context_width: int
    """features C of a condition token"""
    normalisation: str = "matrix"
    """of W, in `NORMALISATIONS`"""
    padding: str = "masked"
    """of the condition, in `PADDINGS`"""
    pooling: str = "mean"
    """of tokens to a layer's vector, in `POOLINGS`"""
    recomputation: str = "exact"
    """of blocks under gradient checkpointing, in `RECOMPUTATIONS`"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shapes", tuple((int(rows), int(columns)) for rows, columns in self.shapes))
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide d_model {self.d_model}")
        if self.condition_from >= self.n_blocks:
            raise ValueError(f"condition_from is {self.condition_from}, but blocks are numbered 0..{self.n_blocks - 1}")

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping that may hold values of other networks as well (TypeError: one is missing)."""
        return cls(**{item.name: values[item.name] for item in fields(cls) if item.name in values})


@dataclass(frozen=True, kw_only=True)
class ResponseConfig(_ResponseOptions, TrunkConfig):
    """Values of the network of stage I."""

    activation: str = "identity"
    """of S, in `ACTIVATIONS`"""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(_AdapterOptions, TrunkConfig):
    """Values of the network that predicts adapters."""

    response_width: int = 0
    """features of a stage I token (its `d_model`); unread where `read_after` is empty"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "read_after", tuple(sorted(set(self.read_after))))
        outside = [number for number in self.read_after if not self.condition_from <= number < self.n_blocks]
        if outside:
            reading = f"{self.condition_from}..{self.n_blocks - 1}"
            raise ValueError(f"read_after holds {outside}, but the blocks that read are numbered {reading}")
