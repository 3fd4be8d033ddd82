"""What is held out: prompts, the clips that adaptation may see, and the sibling clips that scores are taken on.

A LoRA trained on a clip knows that clip; whether it knows the action shows on siblings alone, that is other clips of
the same class, with another look and another wording. So a case hands `adapt` clips out and keeps `score` clips back.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lofa.data.samples import LATENTS, Sample
from lofa.errors import DataError
from lofa.evaluation.options import Protocol

__all__ = ["Case", "plan_cases"]


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
