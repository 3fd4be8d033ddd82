"""lofa finetune: a short training on the clips of one class, from an adapter or from nothing, with its curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lofa.adapters import Adapter
from lofa.adapters.formats import check_adapter_target
from lofa.backbones import Backbone
from lofa.cli.objects import check_layers, open_backbone, pick_device
from lofa.cli.options import build
from lofa.cli.problems import nearest
from lofa.cli.runs import find_set
from lofa.data import Sample, read_samples
from lofa.data.samples import LATENTS
from lofa.errors import ConfigError, DataError, LofaError
from lofa.evaluation import write_curves
from lofa.files import write_json
from lofa.stores import Location
from lofa.targets import check_target
from lofa.zoo import LoraJob, LoraOptions, LoraResult, lora_seed, read_clips, train_loras

__all__ = ["finetune"]


def finetune(config: Any) -> LoraResult:
    """Trains and writes one adapter, the best step by the clips that it is not trained on."""
    out = Path(config.out)
    curve, page = out.with_suffix(".json"), out.with_suffix(".html")
    _check_targets(out, (curve, page), config)
    options: LoraOptions = build(config, "finetune")
    if options.validate_every < 1:
        raise ConfigError("finetune.validate_every=0: the curve needs measurements; at least 1")
    backbone = open_backbone(config.backbone, pick_device(config.device))
    set_dir = find_set(config)
    adapt, kept = _clips(set_dir, config.group)
    start = None if config.init is None else _start(config.init, backbone)
    if config.compare and start is None:
        raise ConfigError("compare=true: there is nothing to compare with; give init=<adapter file>")
    anchor = adapt[0]
    clips, held_out = (read_clips(set_dir, samples, backbone) for samples in (adapt, kept))
    starts = {"from nothing" if start is None else "from init": start} | (
        {"from nothing": None} if config.compare else {}
    )
    results = {}
    for name, adapter in starts.items():
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
        "init": config.init or "",
        "steps": str(best.steps),
        "loss": str(best.held_final_loss),
    }
    Adapter(best.adapter, facts).save(out, config.format, overwrite=config.overwrite)
    curves = {name: [(float(step), loss) for step, loss in result.held_losses] for name, result in results.items()}
    write_json(curve, {"group": anchor.group, "loss_of_unseen_clips": curves})
    title = f"Fine-tuning on {anchor.group!r}: denoising loss of {len(kept)} clips it is not trained on"
    write_curves(page, title, {"denoising loss, by step": curves})
    _report(results, len(adapt), len(kept))
    print(f"{out}: {config.format}, step {best.steps} of {options.steps}; {page}")
    return best


def _check_targets(out: Path, beside: Sequence[Path], config: Any) -> None:
    """Refuses an `out`, or a file beside it, that is not to be replaced, before anything is trained."""
    if out in beside:
        raise ConfigError(f"out={out}: the curve goes there; give the adapter another ending")
    check_adapter_target(out, config.format, config.overwrite)
    for file in beside:
        check_target(file, config.overwrite)


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


def _start(path: str, backbone: Backbone) -> Adapter:
    adapter = Adapter.load(path)
    check_layers(f"init={path}", adapter, backbone)
    return adapter.to(dtype=torch.float32)


def _report(results: dict[str, LoraResult], trained: int, measured: int) -> None:
    """First, best and last loss of each start; with two, when the first is as good as the other ever is."""
    table = Table(title=f"trained on {trained} clips, measured on {measured} others", title_justify="left")
    for heading in ("start", "loss at first", "best", "at step"):
        table.add_column(heading, justify="left" if heading == "start" else "right")
    for name, result in results.items():
        step, loss = min(result.held_losses, key=lambda check: check[1])
        table.add_row(name, f"{result.held_losses[0][1]:.4f}", f"{loss:.4f}", str(step))
    Console().print(table)
    if len(results) == 2:
        ours, fresh = results.values()
        goal_step, goal = min(fresh.held_losses, key=lambda check: check[1])
        reached = next((step for step, loss in ours.held_losses if loss <= goal), None)
        said = "never within these steps" if reached is None else f"after {reached}"
        print(f"from nothing the best is {goal:.4f}, after {goal_step} steps; from init as good {said}")
