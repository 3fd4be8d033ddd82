"""The methods compared: what each adapts with, the adapter of every scored clip, and the seconds that one takes.

base           no adapter
lora           a LoRA trained on the class's adapt clips, by the trainer that made the zoo
lora_shared    one LoRA for everything, trained on the training split
lofa           the predictor's adapter for the prompt that is generated (or as the task says)
lofa_sibling   the same predictor, asked with another clip's prompt of the same class
*_shuffled     the same adapters, each given to a clip of another class: what they gain without fitting their prompt

A recipe is a frozen dataclass of settings with `make`; `conf/method` has a file for each.
"""

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.data.samples import LATENTS, Sample, values_of
from lofa.errors import ConfigError, LofaError
from lofa.evaluation.cases import Case
from lofa.options import Options, option, text
from lofa.paths import Location
from lofa.predict import Predictor
from lofa.tasks import PROMPTS, Task
from lofa.zoo import LoraJob, LoraOptions, LoraResult, lora_seed, read_clips, train_loras

__all__ = [
    "SHUFFLED", "Base", "ClassLora", "Comparison", "Method", "Predicted", "Recipe", "SharedLora", "Timing",
    "make_methods", "shuffled",
]  # fmt: skip

SHUFFLED = "_shuffled"


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
    """One of the methods compared.

    Attributes:
        name: in tables and metrics.json.
        adapters: id of a scored clip -> adapter; None: the backbone as it is.
        timing: seconds an adapter takes.
        about: how it was made, in a sentence for the report.
        role: base, trained (a LoRA), predicted, or shuffled (the adapters of another method, mixed up).
        predictor: what predicted the adapters, None otherwise.
        asked: id of a scored clip -> whose prompt it was asked with, of a predicted method.
    """

    name: str
    adapters: Mapping[str, Adapter] | None
    timing: Timing
    about: str
    role: Literal["base", "trained", "predicted", "shuffled"] = "predicted"
    predictor: Predictor | None = None
    asked: Mapping[str, Sample] = field(default_factory=dict)

    @property
    def by_prompt(self) -> bool:
        """Whether different prompts have different adapters."""
        return self.adapters is not None and len(set(map(id, self.adapters.values()))) > 1


@dataclass(frozen=True, eq=False)
class Comparison:
    """What methods are made for.

    Attributes:
        set_dir: the prepared set.
        backbone: the one it was prepared for.
        task: whose conditions a predictor has to read.
        samples: all of the set.
        cases: what is held out.
        load: the predictor of a run, None meaning the one that the caller takes for granted.
    """

    set_dir: Location
    backbone: Backbone
    task: Task
    samples: Sequence[Sample]
    cases: Sequence[Case]
    load: Callable[[str | None], Predictor]


class Recipe(ABC):
    """Settings of a method."""

    def check(self, name: str, comparison: Comparison) -> None:  # noqa: B027 (most need nothing)
        """Refuses (LofaError) what the method can't be made from, before any method is made."""

    @abstractmethod
    def make(self, name: str, comparison: Comparison) -> Method:
        """The method, under this name.

        Raises:
            LofaError: a LoRA became NaN or infinite, or a clip is without a condition that the predictor takes.
        """


@dataclass(frozen=True)
class Base(Options, Recipe):
    """The backbone without adapter."""

    def make(self, name: str, comparison: Comparison) -> Method:
        """Nothing to make."""
        return Method(name, None, Timing(), "the frozen backbone without adapter", "base")


@dataclass(frozen=True)
class ClassLora(LoraOptions, Recipe):
    """One LoRA a class, trained on its adapt clips; settings to be chosen on validation classes."""

    held_out: int = option(
        0, "adapt clips of each class kept aside to choose the best step (with validate_every)", least=0
    )
    repeats: int = option(3, "LoRAs trained by themselves to measure their time", least=1)

    def make(self, name: str, comparison: Comparison) -> Method:
        """Trains the LoRAs."""
        cases, backbone = comparison.cases, comparison.backbone
        firsts = {case.group: case for case in reversed(cases)}
        jobs = [self._job(comparison, case) for case in reversed(firsts.values())]
        begun = time.perf_counter()
        results = train_loras(backbone, jobs, self)
        in_batch = (time.perf_counter() - begun) / len(jobs)
        adapters = {result.id: _trained(result) for result in results}
        alone = _measure(lambda turn: train_loras(backbone, [jobs[turn % len(jobs)]], self), self.repeats, backbone)
        at_once = "as many as fit in memory" if self.batch is None else min(self.batch, len(jobs))
        chosen = self.held_out and self.validate_every
        return Method(
            name,
            {sample.id: adapters[case.group] for case in cases for sample in case.score},
            Timing(
                alone,
                f"one LoRA by itself, at most {self.steps} steps of {self.clips_per_step} clips, median of "
                f"{self.repeats}; in_batch: {at_once} at once",
                in_batch,
            ),
            f"rank {self.rank}, {self.steps} steps at {self.lr:g}, trained on {len(jobs[0].clips)} clips of the class"
            + (f", the best step chosen on {self.held_out} further clips" if chosen else ""),
            "trained",
        )

    def _job(self, comparison: Comparison, case: Case) -> LoraJob:
        held = min(self.held_out, len(case.adapt) - 1)
        training, kept = case.adapt[: len(case.adapt) - held], case.adapt[len(case.adapt) - held :]
        return LoraJob(
            case.group,
            read_clips(comparison.set_dir, training, comparison.backbone),
            lora_seed(case.anchor.id),
            read_clips(comparison.set_dir, kept, comparison.backbone) if kept else None,
        )


@dataclass(frozen=True)
class SharedLora(LoraOptions, Recipe):
    """One LoRA for all prompts, trained on the training split; settings to be chosen on validation classes."""

    clips: int = option(
        1024, "most training clips, spread evenly over the split: memory does not grow with the set", least=1
    )

    def check(self, name: str, comparison: Comparison) -> None:
        """There are training clips (ConfigError otherwise)."""
        if not self.training_clips(comparison):
            raise ConfigError(f"methods: {name} needs clips of the scored size in the split train, and there are none")

    def training_clips(self, comparison: Comparison) -> list[Sample]:
        """The clips of the training split that are of the size of the scored ones, at most `clips` of them."""
        like = comparison.cases[0].score[0]
        train = [
            sample
            for sample in comparison.samples
            if sample.split == "train"
            and LATENTS in sample.encoded
            and (sample.frames, sample.size) == (like.frames, like.size)
        ]
        count = min(self.clips, len(train))
        return [train[place * len(train) // count] for place in range(count)]

    def make(self, name: str, comparison: Comparison) -> Method:
        """Trains the LoRA."""
        clips = self.training_clips(comparison)
        begun = time.perf_counter()
        job = LoraJob(name, read_clips(comparison.set_dir, clips, comparison.backbone))
        (result,) = train_loras(comparison.backbone, [job], self)
        adapter = _trained(result)
        return Method(
            name,
            {sample.id: adapter for case in comparison.cases for sample in case.score},
            Timing(
                (time.perf_counter() - begun,),
                f"one LoRA for all prompts, {self.steps} steps of {self.clips_per_step} clips, trained once",
            ),
            f"one LoRA for all prompts: rank {self.rank}, {self.steps} steps at {self.lr:g} on {len(clips)} training "
            "clips",
            "trained",
        )


@dataclass(frozen=True)
class Predicted(Options, Recipe):
    """A predictor's adapters."""

    predictor: str | None = text(None, "run of train.py stage=2; none: the one that the caller takes for granted")
    prompt: str | None = option(None, "asked with: own or sibling; none: as the task says", among=tuple(PROMPTS))
    repeats: int = option(20, "single predictions timed, warm, each from the prompt itself to the adapter", least=1)

    def check(self, name: str, comparison: Comparison) -> None:
        """There is a predictor, and it reads the task's conditions (ConfigError otherwise)."""
        predictor, task = comparison.load(self.predictor), comparison.task
        if set(predictor.conditions) != set(task.conditions):
            takes, gives = (", ".join(kinds) for kinds in (predictor.conditions, task.conditions))
            folder = predictor.description.folder
            raise ConfigError(
                f"method {name}: its predictor {folder} takes {takes}, but task={task.name} gives {gives}"
            )

    def make(self, name: str, comparison: Comparison) -> Method:
        """Predicts one adapter for every prompt that is asked with."""
        predictor = comparison.load(self.predictor)
        prompt = self.prompt or comparison.task.prompt
        asked = {
            sample.id: sample if prompt == "own" else case.anchor for case in comparison.cases for sample in case.score
        }
        samples = list({sample.id: sample for sample in asked.values()}.values())
        prompts = values_of(comparison.set_dir, samples, predictor.backbone, predictor.conditions)
        made: Any = predictor.predict(**prompts)
        adapters = dict(zip((sample.id for sample in samples), made, strict=True))

        def one(turn: int) -> object:
            return predictor.predict(**{argument: values[turn % len(values)] for argument, values in prompts.items()})

        for turn in range(2):
            one(turn)
        seconds = _measure(one, self.repeats, predictor.backbone)
        kinds = " and ".join(predictor.conditions)
        how = f"{kinds} prompt to adapter, warm, one prompt at a time, median of {self.repeats}"
        return Method(
            name,
            {scored: adapters[sample.id] for scored, sample in asked.items()},
            Timing(seconds, how),
            f"predicted from {PROMPTS[prompt]}",
            predictor=predictor,
            asked=asked,
        )


def make_methods(
    names: Sequence[str],
    recipes: Mapping[str, Recipe],
    comparison: Comparison,
    on_method: Callable[[str], object] = lambda name: None,
) -> list[Method]:
    """The methods of these names, each made once, `<name>_shuffled` from the adapters of `<name>`.

    Args:
        names: in the order wanted.
        recipes: what there is, by name.
        comparison: what they are made for.
        on_method: called with the name of each recipe before it is made.

    Raises:
        ConfigError: an unknown method, one named twice, none, or one without what it needs.
    """
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"methods={','.join(names)}: give at least one, each once")
    wanted = {name: name if name in recipes else name.removesuffix(SHUFFLED) for name in names}
    for name, of in wanted.items():
        if of not in recipes:
            raise ConfigError(
                f"methods: no method {name!r}; there are: {', '.join(recipes)}, and each with {SHUFFLED} behind"
            )
        if name != of and len({case.group for case in comparison.cases}) < 2:
            raise ConfigError(f"methods: {name} needs held-out clips of at least two classes")
    for name in dict.fromkeys(wanted.values()):
        recipes[name].check(name, comparison)
    made: dict[str, Method] = {}
    for name in dict.fromkeys(wanted.values()):
        on_method(name)
        made[name] = recipes[name].make(name, comparison)
    return [made[of] if name == of else shuffled(made[of], comparison.cases) for name, of in wanted.items()]


def shuffled(method: Method, cases: Sequence[Case]) -> Method:
    """`method` with every clip given an adapter of the next case of another class.

    Args:
        method: whose adapters are mixed up.
        cases: of at least two classes.

    Raises:
        ConfigError: the method has no adapters, or one for all.
    """
    name = f"{method.name}{SHUFFLED}"
    if method.adapters is None or not method.by_prompt:
        raise ConfigError(f"methods: {name} needs adapters that differ from prompt to prompt, {method.name} has none")
    ordered = [*cases, *cases]
    adapters = {}
    for place, case in enumerate(cases):
        other = next(follower for follower in ordered[place + 1 :] if follower.group != case.group)
        for turn, sample in enumerate(case.score):
            adapters[sample.id] = method.adapters[other.score[turn % len(other.score)].id]
    about = f"the adapters of {method.name}, each used for another class"
    return replace(method, name=name, adapters=adapters, about=about, role="shuffled")


def _trained(result: LoraResult) -> Adapter:
    if result.adapter is None:
        raise LofaError(f"the LoRA {result.id!r} could not be trained: {result.failure}")
    return result.adapter


def _measure(function: Callable[[int], object], repeats: int, backbone: Backbone) -> tuple[float, ...]:
    seconds = []
    for turn in range(repeats):
        begun = time.perf_counter()
        function(turn)
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        seconds.append(time.perf_counter() - begun)
    return tuple(seconds)
