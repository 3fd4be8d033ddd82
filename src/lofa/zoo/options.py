"""What a user may set about the training of LoRAs, checked when it is set."""

import math
from dataclasses import dataclass, fields

from lofa.options import Options, option

__all__ = ["LoraOptions", "ZooOptions"]


@dataclass(frozen=True)
class LoraOptions(Options):
    """How one LoRA is trained, and how many at once."""

    rank: int = option(4, "r of A (r, in) and B (out, r)", least=1)
    alpha: float = option(1.0, "the multiplier of B @ A itself (`lora_alpha / r` in PEFT's words)", above=0)
    kinds: tuple[str, ...] = option((), 'layer kinds that get a LoRA ("attn1.to_q"); none named: all')
    steps: int = option(200, "optimiser steps a LoRA", least=1)
    batch: int | None = option(
        None,
        "LoRAs trained at once; none: as many as fit in memory, 32 at most; changes the speed, not the result",
        least=1,
    )
    memory: float | None = option(
        None,
        "GiB that training may take where `batch` is none; none: 85 % of what is free on a GPU, half of it on a CPU; "
        "give it where several shards share a machine",
        above=0,
    )
    clips_per_step: int = option(2, "clips of its own each LoRA sees in a step", least=1)
    accumulate: int = option(
        1,
        "parts that the clips of a step go through the backbone in, one after the other: less memory, same gradient",
        least=1,
    )
    lr: float = option(2e-3, "peak learning rate (AdamW, betas .9/.999)", above=0)
    warmup: int = option(10, "steps of linear warm-up", least=0)
    schedule: str = option("cosine", "cosine (to 0 at the last step) or constant", among=("cosine", "constant"))
    weight_decay: float = option(0.01, "decoupled weight decay of A and B", least=0)
    clip_norm: float = option(1.0, "largest gradient norm of one LoRA (over all its layers); 0: no clipping", least=0)
    seed: int = option(0, "adds to every LoRA's own seed for clips, noise levels and noise")
    shared_init: bool = option(
        True,
        "every LoRA starts from the same A: deltas then lie near one another's row spaces, which a hypernetwork can "
        "learn; with an A for each LoRA a part of every delta is that LoRA's own random draw",
    )
    probe_levels: int = option(8, "fixed noise levels at which first, final and held-out losses are measured", least=1)
    validate_every: int = option(
        0, "steps between measurements on held-out clips; the best step is kept; 0: the last step is", least=0
    )
    patience: int = option(0, "measurements without a better one after which a LoRA stops early; 0: never", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            "accumulate", self.accumulate <= self.clips_per_step, f"at most clips_per_step={self.clips_per_step}"
        )
        self.require("patience", not self.patience or self.validate_every > 0, "0 while validate_every is 0")

    def learning_rate(self, step: int) -> float:
        """The rate of step `step` (0-based): linear warm-up, then constant or cosine to 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


@dataclass(frozen=True)
class ZooOptions(LoraOptions):
    """Which LoRAs a zoo holds, over how they are trained."""

    splits: tuple[str, ...] = option(("train", "val"), "splits of the data set that get LoRAs")
    per_group: int = option(1, "LoRAs a group (action class), each anchored at one sample; 0: at every one", least=0)
    siblings: int = option(
        0,
        "most clips of the group a LoRA is trained on, its anchor included; 1: the anchor alone, which it then "
        "memorises; 0: all",
        least=0,
    )
    held_out: int = option(0, "further clips of the group that choose the best step (with validate_every)", least=0)
    shard: str = option("1/1", 'this run\'s part of the work, "i/n", 1-based; parts may run at the same time')

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("held_out", not self.held_out or self.validate_every > 0, "0 while validate_every is 0")
        first, slash, last = self.shard.partition("/")
        numbers = first.isdecimal() and last.isdecimal() and bool(slash)
        self.require("shard", numbers and 1 <= int(first) <= int(last), '"i/n" with 1 <= i <= n')

    @property
    def shard_index(self) -> tuple[int, int]:
        """(i, n) of this shard, i from 1."""
        first, last = self.shard.split("/")
        return int(first), int(last)

    @property
    def shard_name(self) -> str:
        """Of this shard in the names of its files."""
        return "{}-of-{}".format(*self.shard_index)

    def recipe(self) -> dict[str, object]:
        """The values that a finished LoRA depends on, as json has them: all but how steps are cut, and which LoRAs."""
        outside = ("batch", "memory", "accumulate", "shard", "splits", "per_group")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in outside}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
