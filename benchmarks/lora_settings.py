"""Chooses the settings of the LoRA baselines on validation classes: loss of each setting, step by step.

    lofa prepare source=world data=settings prepare.train_classes=0 prepare.test_classes=0 prepare.val_clips=12
    python benchmarks/lora_settings.py data/settings                       # the grid of docs/results.md
    python benchmarks/lora_settings.py data/settings lr=1e-3,steps=240 lr=1e-3,steps=240,rank=8
    python benchmarks/lora_settings.py data/settings rank=16,steps=240 rank=16,steps=48 --predictor runs/demo --every 4
    python benchmarks/lora_settings.py data/demo --shared --every 120      # conf/method/lora_shared.yaml

Every class of the split gets one LoRA on all its adapt clips; its score clips, siblings that it never sees, are
measured every `--every` steps. Printed are the mean over classes at the last step, at the step that is best for the
mean, and the mean of each class's own best step: no early stopping can do better than the last, as it would have to
find these steps without the siblings. Differences are to the setting with the lowest loss at its last step, paired over
classes.

With `--shared` every setting is one LoRA for all prompts, trained on all clips of the training split and measured on
all clips of the validation classes.

With `--predictor` every setting is also trained from LoFA's adapter of the class's first caption and, as a control,
from its adapter of another class, with the same clips, noise and order; the last column says after how many steps the
mean over classes is as low as the first setting's, from nothing, at its end.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from lofa.backbones import load_backbone
from lofa.data import read_samples
from lofa.data.samples import Sample
from lofa.errors import ConfigError
from lofa.evaluation.bootstrap import draw_units, interval, mean_draws
from lofa.files import write_json
from lofa.predict import Predictor
from lofa.zoo import LoraJob, LoraOptions, lora_seed, read_clips, train_loras

GRID = [
    *(f"lr={lr},steps={steps}" for lr in ("5e-4", "1e-3", "2e-3") for steps in (60, 120, 240)),
    "lr=5e-4,steps=480",
    *(f"lr=1e-3,steps=120,rank={rank}" for rank in (1, 2, 8, 16)),
    *(f"lr=1e-3,steps=120,weight_decay={decay}" for decay in (0.1, 1.0)),
    "lr=1e-3,steps=60,clips_per_step=2",
    "lr=2e-3,steps=480",
    "lr=4e-3,steps=240",
    *(f"lr={lr},steps={steps},rank=16" for lr, steps in (("2e-3", 240), ("2e-3", 480), ("1e-3", 480))),
]
SHARED_GRID = [
    f"rank=16,clips_per_step=16,warmup=20,lr={lr},steps={steps}"
    for lr, steps in (("2e-3", 240), ("1e-3", 480), ("2e-3", 480), ("4e-3", 480), ("1e-3", 960), ("2e-3", 960))
]


@dataclass(frozen=True)
class Outcome:
    """Sibling losses (M, N) of N classes at M measured steps, the first of them 0, and seconds a LoRA."""

    steps: list[int]
    losses: Tensor
    seconds: float

    @property
    def last(self) -> Tensor:
        """Of each class (N,), after the last step."""
        return self.losses[-1]

    @property
    def best_step(self) -> int:
        """Row where the mean over classes is lowest."""
        return int(self.losses.mean(1).argmin())

    def steps_to(self, goal: float) -> int | None:
        """The first measured step at which the mean over classes is at most `goal`; None: never."""
        means = self.losses.mean(1).tolist()
        return next((step for step, mean in zip(self.steps, means, strict=True) if mean <= goal), None)


def parse(setting: str) -> LoraOptions:
    """Options of a setting such as "lr=1e-3,steps=120", over those that all settings share."""
    types = {field.name: field.type for field in fields(LoraOptions)}
    values: dict[str, Any] = {"batch": 32, "clips_per_step": 1, "warmup": 5, "probe_levels": 4}
    for pair in setting.split(","):
        key, _, value = pair.partition("=")
        kind = types.get(key)
        if kind is not int and kind is not float:
            raise argparse.ArgumentTypeError(f"{setting!r}: {key!r} is not a number among the options of a LoRA")
        try:
            values[key] = kind(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{setting!r}: {key} is no {kind.__name__}") from None
    try:
        return LoraOptions(**values)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{setting!r}: {error}") from None


def main() -> None:
    """Trains every setting and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set with adapt and score clips in the split")
    parser.add_argument("settings", nargs="*", help="as key=value,key=value; none: the whole grid")
    parser.add_argument("--shared", action="store_true", help="one LoRA for all prompts instead of one a class")
    parser.add_argument("--backbone", default="tiny-wan", help="name, folder or hub id")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"), help="test: never for choosing")
    parser.add_argument("--predictor", help="run of a trained predictor of text: start from its adapters too")
    parser.add_argument("--every", type=int, default=20, help="steps between measurements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="json file for the figures")
    given = parser.parse_args()

    try:
        grid = SHARED_GRID if given.shared else GRID
        options = {setting: parse(setting) for setting in given.settings or grid}
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    predictor = Predictor.load(given.predictor) if given.predictor else None
    backbone = predictor.backbone if predictor else load_backbone(given.backbone)
    groups: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: {"adapt": [], "score": []})
    for sample in read_samples(given.data):
        if given.shared and sample.split in ("train", given.split):
            groups["all"]["adapt" if sample.split == "train" else "score"].append(sample)
        elif sample.split == given.split:
            groups[sample.group][sample.role].append(sample)
    jobs = [
        LoraJob(
            name,
            read_clips(given.data, roles["adapt"], backbone),
            lora_seed(roles["adapt"][0].id),
            read_clips(given.data, roles["score"], backbone),
        )
        for name, roles in groups.items()
    ]
    starts = {"": jobs}
    if predictor:
        adapters = predictor.predict([roles["adapt"][0].caption for roles in groups.values()])
        shifted = adapters[1:] + adapters[:1]
        starts[" from LoFA's"] = [replace(job, start=own) for job, own in zip(jobs, adapters, strict=True)]
        starts[" from another class's"] = [replace(job, start=own) for job, own in zip(jobs, shifted, strict=True)]
    outcomes = {}
    for (setting, option), (start, chosen) in track([*product(options.items(), starts.items())], "settings"):
        begun = time.perf_counter()
        results = train_loras(backbone, chosen, replace(option, validate_every=given.every, seed=given.seed))
        seconds = (time.perf_counter() - begun) / len(jobs)
        losses = torch.tensor([[loss for _, loss in result.held_losses] for result in results]).T.double()
        outcomes[setting + start] = Outcome([step for step, _ in results[0].held_losses], losses, seconds)
    _report(outcomes)
    if given.out:
        write_json(
            given.out,
            {name: {"steps": one.steps, "mean": one.losses.mean(1).tolist()} for name, one in outcomes.items()},
        )


def _report(outcomes: dict[str, Outcome]) -> None:
    """Prints the table of docs/results.md, in Markdown."""
    first = next(iter(outcomes.values()))
    base, goal = first.losses[0], float(first.last.mean())
    best = min(outcomes.values(), key=lambda one: float(one.last.mean()))
    print(f"loss of clips that are not trained on, over {len(base)} LoRAs; base {base.mean():.4f}\n")
    headings = ("last step", "to the best", "best step for the mean", "each class's best step", "seconds a LoRA")
    print("| setting | " + " | ".join(headings) + f" | steps to {goal:.4f} |")
    print("|---" * 7 + "|")
    for setting, one in outcomes.items():
        cells = (
            setting,
            f"{one.last.mean():.4f}",
            "" if one is best or len(base) == 1 else _difference(one.last - best.last),
            f"{one.losses[one.best_step].mean():.4f} at {one.steps[one.best_step]}",
            f"{one.losses.min(0).values.mean():.4f}",
            f"{one.seconds:.2f}",
            "never" if (at := one.steps_to(goal)) is None else str(at),
        )
        print("| " + " | ".join(cells) + " |")


def _difference(values: Tensor, draws: int = 1000) -> str:
    drawn = mean_draws(values, draw_units(len(values), draws, seed=0))
    whole = interval(float(values.mean()), drawn)
    return f"{whole.value:+.4f} [{whole.low:+.4f}, {whole.high:+.4f}]"


if __name__ == "__main__":
    main()
