"""What is held out: prompts, the clips that adaptation may see, and the sibling clips that scores are taken on.

A LoRA trained on a clip knows that clip; whether it knows the action shows on siblings alone, that is other clips of
the same class, with another look and another wording. So a case hands `adapt` clips out and keeps `score` clips back.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lofa.data.samples import LATENTS, SPLIT_NAMES, Sample
from lofa.errors import ConfigError, DataError

__all__ = ["Case", "Protocol", "plan_cases"]


@dataclass(frozen=True)
class Protocol:
    """How methods are compared.

    Attributes:
        split: of the data set; "test" holds the classes nothing was trained on.
        groups: classes used, 0 for all.
        prompts_per_group: cases a class; each has its own anchor and its own part of the class's score clips.
        clips_per_prompt: score clips a case at most, 0 for all.
        generated_per_prompt: how many of these are generated too, 0 for all.
        noise_levels: stratified noise levels of the denoising loss of each clip, the same for all methods.
        batch: clips that go through the backbone at once.
        steps, guidance: sampling, None for the backbone's own.
        draws: bootstrap draws.
        seed: of noise, generation and bootstrap.
        pictures: cases whose clips the report shows.
    """

    split: str = "test"
    groups: int = 0
    prompts_per_group: int = 1
    clips_per_prompt: int = 0
    generated_per_prompt: int = 0
    noise_levels: int = 4
    batch: int = 16
    steps: int | None = None
    guidance: float | None = None
    draws: int = 1000
    seed: int = 0
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.split not in SPLIT_NAMES:
            raise ConfigError(f"evaluation option split={self.split!r}: it must be one of {', '.join(SPLIT_NAMES)}")
        for key in ("prompts_per_group", "noise_levels", "batch", "draws"):
            self._check(key, 1)
        for key in ("groups", "clips_per_prompt", "generated_per_prompt", "pictures"):
            self._check(key, 0)

    def _check(self, key: str, least: int) -> None:
        if getattr(self, key) < least:
            raise ConfigError(f"evaluation option {key}={getattr(self, key)}: it must be at least {least}")


@dataclass(frozen=True)
class Case:
    """One held-out prompt.

    Attributes:
        anchor: its caption (or pose) is the prompt; one of `adapt`.
        adapt: clips of the class that a LoRA may be trained on.
        score: siblings that no method has seen.
    """

    anchor: Sample
    adapt: tuple[Sample, ...]
    score: tuple[Sample, ...]

    @property
    def id(self) -> str:
        """Name of the case: its anchor's."""
        return self.anchor.id

    @property
    def group(self) -> str:
        """The class."""
        return self.anchor.group


def plan_cases(samples: Sequence[Sample], protocol: Protocol) -> list[Case]:
    """The cases of a split, class by class in the order of the samples.

    Raises:
        DataError: fewer than two prompts have clips of both roles; the message says what the split holds.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.split == protocol.split and LATENTS in sample.encoded:
            groups.setdefault(sample.group, []).append(sample)
    names = [name for name, members in groups.items() if {member.role for member in members} >= {"adapt", "score"}]
    cases = [case for name in names[: protocol.groups or None] for case in _cases_of(groups[name], protocol)]
    if len(cases) < 2:
        splits = ", ".join(f"{split} {count}" for split, count in Counter(sample.split for sample in samples).items())
        raise DataError(
            f"split={protocol.split}: {len(names)} of its {len(groups)} classes have clips both to adapt on and to "
            f"score, and a comparison with intervals needs two prompts (samples by split: {splits}). Prepare more "
            "held-out classes or clips (test_classes, test_score, held_out_labels), or choose another split"
        )
    return cases


def _cases_of(members: Sequence[Sample], protocol: Protocol) -> list[Case]:
    adapt = tuple(member for member in members if member.role == "adapt")
    score = tuple(member for member in members if member.role == "score")
    count = min(protocol.prompts_per_group, len(adapt), len(score))
    most = protocol.clips_per_prompt or None
    whole = [Case(anchor, adapt, score) for anchor in adapt[:count]]
    return [replace(case, score=score[place::count][:most]) for place, case in enumerate(whole)]
