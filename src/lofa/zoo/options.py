"""What a user may set about the training of LoRAs, checked when it is set."""

import math
from dataclasses import dataclass, fields

from lofa.errors import ConfigError

__all__ = ["LoraOptions", "ZooOptions"]


@dataclass(frozen=True)
class LoraOptions:
    """How one LoRA is trained, and how many at once.

    Attributes:
        rank: r of A (r, in) and B (out, r).
        alpha: the multiplier of B @ A itself (`lora_alpha / r` in PEFT's words).
        kinds: layer kinds that get a LoRA ("attn1.to_q"); none named: all layers of the backbone.
        steps: optimiser steps a LoRA.
        batch: LoRAs trained at once; none: as many as fit in memory, 32 at most. It changes the speed, not the result.
        memory: GiB that training may take where `batch` is none; none: 85 % of what is free on a GPU, half of it on a
            CPU. Give it where several shards share a machine.
        clips_per_step: clips of its own each LoRA sees in a step.
        accumulate: parts that the clips of a step go through the backbone in, one after the other: less memory, the
            same gradient.
        lr: peak learning rate (AdamW, betas .9/.999).
        warmup: steps of linear warm-up.
        schedule: "cosine" (to 0 at the last step) or "constant".
        weight_decay: decoupled weight decay of A and B.
        clip_norm: largest gradient norm of one LoRA (over all its layers); 0: no clipping.
        seed: adds to every LoRA's own seed for clips, noise levels and noise.
        shared_init: every LoRA starts from the same A. Deltas then lie near one another's row spaces, which a
            hypernetwork can learn; with an A for each LoRA a part of every delta is that LoRA's own random draw.
        probe_levels: fixed noise levels at which first, final and held-out losses are measured.
        validate_every: steps between measurements on held-out clips; the best step is kept. 0: the last step is.
        patience: measurements without a better one after which a LoRA stops early; 0: never.
    """

    rank: int = 4
    alpha: float = 1.0
    kinds: tuple[str, ...] = ()
    steps: int = 200
    batch: int | None = None
    memory: float | None = None
    clips_per_step: int = 2
    accumulate: int = 1
    lr: float = 2e-3
    warmup: int = 10
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0
    shared_init: bool = True
    probe_levels: int = 8
    validate_every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        for key in ("rank", "steps", "clips_per_step", "accumulate", "probe_levels"):
            self._check(key, getattr(self, key) >= 1, "at least 1")
        self._check("batch", self.batch is None or self.batch >= 1, "at least 1, or null")
        self._check("memory", self.memory is None or 0 < self.memory < math.inf, "a positive number of GiB, or null")
        self._check(
            "accumulate", self.accumulate <= self.clips_per_step, f"at most clips_per_step={self.clips_per_step}"
        )
        for key in ("warmup", "weight_decay", "clip_norm", "validate_every", "patience"):
            self._check(key, 0 <= getattr(self, key) < math.inf, "at least 0")
        self._check("lr", 0 < self.lr < math.inf, "a positive number")
        self._check("alpha", 0 < self.alpha < math.inf, "a positive number")
        self._check("schedule", self.schedule in ("cosine", "constant"), '"cosine" or "constant"')
        self._check("patience", not self.patience or self.validate_every > 0, "0 while validate_every is 0")

    def _check(self, key: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"zoo option {key}={getattr(self, key)!r}: it must be {wanted}")

    def learning_rate(self, step: int) -> float:
        """The rate of step `step` (0-based): linear warm-up, then constant or cosine to 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


@dataclass(frozen=True)
class ZooOptions(LoraOptions):
    """Which LoRAs a zoo holds, over how they are trained.

    Attributes:
        splits: splits of the data set that get LoRAs.
        per_group: LoRAs a group (action class); 0: one for every sample. Each is anchored at one sample.
        siblings: most clips of the group a LoRA is trained on, its anchor included. 1: the anchor alone, which it
            then memorises; 0: all.
        held_out: further clips of the group kept aside to choose the best step (with `validate_every`).
        shard: "i/n", this run's part of the work (1-based); parts may run at the same time.
    """

    splits: tuple[str, ...] = ("train", "val")
    per_group: int = 1
    siblings: int = 0
    held_out: int = 0
    shard: str = "1/1"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "splits", tuple(self.splits))
        for key in ("per_group", "siblings", "held_out"):
            self._check(key, getattr(self, key) >= 0, "at least 0")
        self._check("held_out", not self.held_out or self.validate_every > 0, "0 while validate_every is 0")
        first, slash, last = self.shard.partition("/")
        numbers = first.isdecimal() and last.isdecimal() and bool(slash)
        self._check("shard", numbers and 1 <= int(first) <= int(last), '"i/n" with 1 <= i <= n')

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
