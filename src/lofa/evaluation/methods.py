"""The methods compared, each as adapters of the cases and the seconds that one adapter takes.

base         no adapter
lora         a LoRA trained on the class's adapt clips, by the trainer that made the zoo
lofa         the predictor's adapter for the anchor's prompt
*_shuffled   the same adapters, each given to a case of another class: what they gain without fitting their prompt
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.conditions import CONDITIONS
from lofa.data.samples import values_of
from lofa.errors import LofaError
from lofa.evaluation.cases import Case
from lofa.predict import Predictor
from lofa.stores import Location
from lofa.zoo import LoraJob, LoraOptions, lora_seed, read_clips, train_loras

__all__ = ["Method", "Timing", "base_method", "lofa_method", "lora_method", "prompts_of", "shuffled"]


@dataclass(frozen=True)
class Timing:
    """Seconds from a prompt to its adapter.

    Attributes:
        seconds: repeated measurements of one adapter made alone.
        how: in words.
        in_batch: seconds an adapter where many are made at once, None where that was not measured.
    """

    seconds: tuple[float, ...] = (0.0,)
    how: str = "nothing to do"
    in_batch: float | None = None

    @property
    def median(self) -> float:
        """Median of the measurements."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Method:
    """One way to adapt.

    Attributes:
        name: in tables and metrics.json.
        adapters: case id -> adapter; None: the backbone as it is.
        timing: seconds an adapter takes.
        about: how it was made, in a sentence for the report.
    """

    name: str
    adapters: Mapping[str, Adapter] | None
    timing: Timing
    about: str


def base_method() -> Method:
    """The backbone without adapter."""
    return Method("base", None, Timing(), "the frozen backbone without adapter")


def lora_method(
    set_dir: Location,
    backbone: Backbone,
    cases: Sequence[Case],
    options: LoraOptions,
    *,
    held_out: int = 0,
    repeats: int = 3,
    on_step: Callable[[int, int], None] | None = None,
) -> Method:
    """Trains one LoRA a class on its adapt clips.

    Args:
        set_dir: where the cases' clips lie.
        backbone: the one they were encoded for.
        cases: those of one class share their LoRA.
        options: as for a zoo, chosen on validation classes; with `validate_every` the best step is kept.
        held_out: adapt clips of each class kept out of training to choose that step.
        repeats: how often one LoRA is trained by itself to time it.
        on_step: as in `train_loras`.

    Raises:
        LofaError: a LoRA became NaN or infinite.
    """
    anchors = {case.group: case for case in reversed(cases)}
    jobs = [_job(set_dir, backbone, case, held_out) for case in reversed(anchors.values())]
    begun = time.perf_counter()
    results = train_loras(backbone, jobs, options, on_step)
    in_batch = (time.perf_counter() - begun) / len(jobs)
    adapters: dict[str, Adapter] = {}
    for result in results:
        if result.adapter is None:
            raise LofaError(f"the LoRA of the held-out class {result.id!r} could not be trained: {result.failure}")
        adapters[result.id] = result.adapter
    alone = _measure(lambda turn: train_loras(backbone, [jobs[turn % len(jobs)]], options), repeats, backbone)
    clips = len(jobs[0].clips)
    at_once = "as many as fit in memory" if options.batch is None else min(options.batch, len(jobs))
    chosen = f", the best step chosen on {held_out} further clips" if held_out and options.validate_every else ""
    return Method(
        "lora",
        {case.id: adapters[case.group] for case in cases},
        Timing(
            alone,
            f"one LoRA by itself, at most {options.steps} steps of {options.clips_per_step} clips, median of "
            f"{repeats}; in_batch: {at_once} at once",
            in_batch,
        ),
        f"rank {options.rank}, {options.steps} steps at {options.lr:g}, trained on {clips} clips of the class{chosen}",
    )


def _job(set_dir: Location, backbone: Backbone, case: Case, held_out: int) -> LoraJob:
    held = min(held_out, len(case.adapt) - 1)
    training, kept = case.adapt[: len(case.adapt) - held], case.adapt[len(case.adapt) - held :]
    return LoraJob(
        case.group,
        read_clips(set_dir, training, backbone),
        lora_seed(case.id),
        read_clips(set_dir, kept, backbone) if kept else None,
    )


def lofa_method(
    set_dir: Location, predictor: Predictor, cases: Sequence[Case], *, repeats: int = 20, name: str = "lofa"
) -> Method:
    """Predicts one adapter a case, from its anchor's own caption, pose ...

    Args:
        set_dir: where the anchors' conditions lie.
        predictor: of any conditions.
        cases: what to predict for.
        repeats: how many single predictions are timed, warm, each from the prompt itself to the adapter.
        name: of the method; a second predictor needs another.

    Raises:
        DataError: an anchor without a condition that the predictor takes.
    """
    prompts = prompts_of(set_dir, predictor, cases)
    made: Any = predictor.predict(**prompts)

    def one(turn: int) -> object:
        return predictor.predict(**{argument: values[turn % len(values)] for argument, values in prompts.items()})

    for turn in range(2):
        one(turn)
    seconds = _measure(one, repeats, predictor.backbone)
    kinds = " and ".join(predictor.conditions)
    source = " and one ".join(CONDITIONS[name].noun for name in predictor.conditions)
    return Method(
        name,
        dict(zip((case.id for case in cases), made, strict=True)),
        Timing(seconds, f"{kinds} prompt to adapter, warm, one prompt at a time, median of {repeats}"),
        f"predicted from one {source} in one pass of each stage",
    )


def prompts_of(set_dir: Location, predictor: Predictor, cases: Sequence[Case]) -> dict[str, Any]:
    """What `predictor` takes of each case's anchor, as its arguments: {"prompt": captions, "pose": joint arrays ...}.

    Raises:
        DataError: an anchor without a condition that the predictor takes.
    """
    anchors = [case.anchor for case in cases]
    return values_of(set_dir, anchors, predictor.backbone, predictor.conditions)


def shuffled(method: Method, cases: Sequence[Case]) -> Method:
    """`method` with every adapter given to the next case of another class.

    Raises:
        LofaError: the method has no adapters, or all cases are of one class.
    """
    if method.adapters is None or len({case.group for case in cases}) < 2:
        raise LofaError(f"method {method.name}_shuffled needs adapters and cases of at least two classes")
    ordered = [*cases, *cases]
    adapters = {}
    for place, case in enumerate(cases):
        other = next(follower for follower in ordered[place + 1 :] if follower.group != case.group)
        adapters[case.id] = method.adapters[other.id]
    about = f"the adapters of {method.name}, each used for another class"
    return replace(method, name=f"{method.name}_shuffled", adapters=adapters, about=about)


def _measure(function: Callable[[int], object], repeats: int, backbone: Backbone) -> tuple[float, ...]:
    seconds = []
    for turn in range(repeats):
        begun = time.perf_counter()
        function(turn)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        seconds.append(time.perf_counter() - begun)
    return tuple(seconds)
