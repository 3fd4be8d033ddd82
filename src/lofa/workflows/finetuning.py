"""A short training on the clips of one class, from an adapter or from nothing, with its curve."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.data import Sample, read_samples
from lofa.data.samples import LATENTS
from lofa.errors import ConfigError, DataError, LofaError, nearest
from lofa.evaluation import write_curves
from lofa.files import write_json
from lofa.paths import Location
from lofa.zoo import LoraJob, LoraOptions, LoraResult, lora_seed, read_clips, train_loras

__all__ = ["FineTuning", "curve_files", "finetune"]


@dataclass(frozen=True)
class FineTuning:
    """What a fine-tuning leaves.

    Attributes:
        adapter: of the best step, by the clips that it was not trained on.
        group: the class.
        results: start in words -> its training; the adapter is the first one's.
        trained, measured: clips trained on, and measured with.
    """

    adapter: Adapter
    group: str
    results: dict[str, LoraResult]
    trained: int
    measured: int

    def write_curve(self, out: Path) -> None:
        """Writes the losses of the clips not trained on beside the adapter's file: as json, and as a page."""
        curve, page = curve_files(out)
        curves = {
            name: [(float(step), loss) for step, loss in result.held_losses] for name, result in self.results.items()
        }
        write_json(curve, {"group": self.group, "loss_of_unseen_clips": curves})
        title = f"Fine-tuning on {self.group!r}: denoising loss of {self.measured} clips it is not trained on"
        write_curves(page, title, {"denoising loss, by step": curves})


def curve_files(out: Path) -> tuple[Path, Path]:
    """The files of the curve of an adapter's file."""
    return out.with_suffix(".json"), out.with_suffix(".html")


def finetune(
    backbone: Backbone,
    set_dir: Location,
    options: LoraOptions,
    group: str | None = None,
    init: Adapter | None = None,
    compare: bool = False,
) -> FineTuning:
    """Trains an adapter on one class of a set, the only one where none is named.

    Args:
        backbone: the model; `init` has its layers
        set_dir: of a prepared set
        options: with `validate_every`: the curve needs measurements
        group: the class
        init: where the training starts; None: from nothing
        compare: train from nothing too

    Raises:
        ConfigError: no such class, or several and none named; no measurements.
        DataError: fewer than two clips. LofaError: the training came to nothing.
    """
    if options.validate_every < 1:
        raise ConfigError("validate_every=0: the curve needs measurements; at least 1")
    adapt, kept = _clips(set_dir, group)
    anchor = adapt[0]
    clips, held_out = (read_clips(set_dir, samples, backbone) for samples in (adapt, kept))
    starts = {"from nothing": None} if init is None else {"from init": init.to(dtype=torch.float32)}
    results = {}
    for name, adapter in {**starts, **({"from nothing": None} if compare else {})}.items():
        with Console().status(f"{options.steps} steps {name}"):
            job = LoraJob(anchor.group, clips, lora_seed(anchor.id), held_out, adapter)
            (results[name],) = train_loras(backbone, [job], options)
    best = next(iter(results.values()))
    if best.adapter is None:
        raise LofaError(f"no adapter for {anchor.group}: {best.failure}")
    facts = {
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "prompt": anchor.caption,
        "steps": str(best.steps),
        "loss": str(best.held_final_loss),
    }
    return FineTuning(Adapter(best.adapter, facts), anchor.group, results, len(adapt), len(kept))


def _clips(set_dir: Location, group: str | None) -> tuple[list[Sample], list[Sample]]:
    """Clips of the class to train on, and those to measure with: the scored ones, else the last quarter of the others.

    Raises:
        ConfigError: no such class, or several and none named.
        DataError: fewer than two clips.
    """
    samples = [sample for sample in read_samples(set_dir) if LATENTS in sample.encoded]
    groups = list(dict.fromkeys(sample.group for sample in samples))
    if group is None and len(groups) != 1:
        raise ConfigError(f"{set_dir}: {len(groups)} classes; choose one with group=, such as {', '.join(groups[:3])}")
    name = groups[0] if group is None else group
    if name not in groups:
        raise ConfigError(f"group={name}: no such class in {set_dir}; {nearest(name, groups)}")
    chosen = [sample for sample in samples if sample.group == name]
    first = chosen[0]
    chosen = [sample for sample in chosen if (sample.frames, sample.size) == (first.frames, first.size)]
    adapt = [sample for sample in chosen if sample.role == "adapt"]
    score = [sample for sample in chosen if sample.role == "score"]
    if not score:
        place = len(adapt) - max(1, len(adapt) // 4)
        adapt, score = adapt[:place], adapt[place:]
    if not adapt:
        raise DataError(
            f"{set_dir}: class {name!r} has {len(chosen)} clips; one to train on and one to measure are needed"
        )
    return adapt, score
