"""lofa finetune: a short training on the clips of one class, from an adapter or from nothing, with its curve."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lofa import workflows
from lofa.adapters import Adapter
from lofa.adapters.formats import check_adapter_target
from lofa.cli.commands import FinetuneConfig
from lofa.cli.objects import open_backbone
from lofa.cli.runs import find_set
from lofa.errors import ConfigError
from lofa.targets import check_target

__all__ = ["finetune"]


def finetune(config: FinetuneConfig) -> workflows.FineTuning:
    """Trains and writes one adapter and, beside it, its curve."""
    out = Path(config.out)
    beside = workflows.curve_files(out)
    if out in beside:
        raise ConfigError(f"out={out}: the curve goes there; give the adapter another ending")
    check_adapter_target(out, config.format, config.overwrite)
    for file in beside:
        check_target(file, config.overwrite)
    if config.compare and config.init is None:
        raise ConfigError("compare=true: there is nothing to compare with; give init=<adapter file>")
    options = config.finetune
    backbone = open_backbone(config.backbone, workflows.pick_device(config.device))
    init = None if config.init is None else Adapter.load(config.init)
    if init is not None:
        workflows.check_adapter(f"init={config.init}", init, backbone)
    done = workflows.finetune(backbone, find_set(config), options, config.group, init, config.compare)
    adapter = Adapter(done.adapter, {**done.adapter.metadata, "init": config.init or ""})
    adapter.save(out, config.format, overwrite=config.overwrite)
    done.write_curve(out)
    _report(done)
    print(f"{out}: {config.format}, step {done.adapter.metadata['steps']} of {options.steps}; {beside[1]}")
    return replace(done, adapter=adapter)


def _report(done: workflows.FineTuning) -> None:
    """First, best and last loss of each start; with two, when the first is as good as the other ever is."""
    title = f"trained on {done.trained} clips, measured on {done.measured} others"
    table = Table(title=title, title_justify="left")
    for heading in ("start", "loss at first", "best", "at step"):
        table.add_column(heading, justify="left" if heading == "start" else "right")
    for name, result in done.results.items():
        step, loss = min(result.held_losses, key=lambda check: check[1])
        table.add_row(name, f"{result.held_losses[0][1]:.4f}", f"{loss:.4f}", str(step))
    Console().print(table)
    if len(done.results) == 2:
        ours, fresh = done.results.values()
        goal_step, goal = min(fresh.held_losses, key=lambda check: check[1])
        reached = next((step for step, loss in ours.held_losses if loss <= goal), None)
        when = "never within these steps" if reached is None else f"after {reached}"
        print(f"from nothing the best is {goal:.4f}, after {goal_step} steps; from init as good {when}")
