"""Which LoRAs a zoo holds, and which clips each is trained on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lofa.data.samples import LATENTS, Sample
from lofa.errors import DataError
from lofa.zoo.options import ZooOptions

__all__ = ["LoraPlan", "plan_zoo"]


@dataclass(frozen=True)
class LoraPlan:
    """One LoRA: its clips, the anchor first, and the clips kept aside to choose its best step."""

    clips: tuple[Sample, ...]
    held_out: tuple[Sample, ...]

    @property
    def anchor(self) -> Sample:
        """The sample whose id and caption the LoRA carries."""
        return self.clips[0]


def plan_zoo(samples: Sequence[Sample], options: ZooOptions) -> list[LoraPlan]:
    """The LoRAs of all shards, in the order of the samples.

    Clips come from the anchor's own split and group, in its size; clips of the role "score" are never touched. At most
    half of an anchor's siblings are held out, so that a small group still has some to train on.

    Raises:
        DataError: the set has no sample to train on in the splits asked for.
    """
    pools: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        if sample.split in options.splits and sample.role == "adapt" and LATENTS in sample.encoded:
            pools.setdefault((sample.split, sample.group), []).append(sample)
    if not pools:
        found = Counter(sample.split for sample in samples)
        held = ", ".join(f"{split} {count}" for split, count in found.items()) or "none"
        raise DataError(
            f"nothing to train LoRAs on: no encoded clip in splits={','.join(options.splits)} may be adapted to; "
            f"samples by split: {held}. Name another split, or run `lofa prepare` again"
        )
    return [plan for pool in pools.values() for plan in _plan_group(pool, options)]


def _plan_group(pool: list[Sample], options: ZooOptions) -> Iterator[LoraPlan]:
    for index, anchor in enumerate(pool[: options.per_group or len(pool)]):
        around = pool[index + 1 :] + pool[:index]
        others = [sample for sample in around if (sample.frames, sample.size) == (anchor.frames, anchor.size)]
        held = min(options.held_out, len(others) // 2)
        training = others[: len(others) - held]
        if options.siblings:
            training = training[: options.siblings - 1]
        yield LoraPlan((anchor, *training), tuple(others[len(others) - held :]))
