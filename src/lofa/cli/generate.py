"""Commands that run the backbone: generate, finetune."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from lofa import workflows
from lofa.adapters import Adapter
from lofa.adapters.formats import check_adapter_target
from lofa.backbones import Backbone, load_backbone
from lofa.cli.commands import FinetuneConfig, GenerateConfig
from lofa.cli.objects import find_set, load_predictor, open_backbone
from lofa.errors import ConfigError
from lofa.targets import check_target

__all__ = ["finetune", "generate"]

_SAMPLING = ("steps", "guidance", "frames", "height", "width", "negative_prompt")


def generate(config: GenerateConfig) -> Tensor:
    """Generates one clip, uint8 (T, H, W, 3), with or without an adapter, and writes it."""
    out = Path(config.out)
    workflows.check_clip_path(out)
    check_target(out, config.overwrite)
    backbone, adapter = _load(config)
    sampling = {name: getattr(config, name) for name in _SAMPLING}
    named, negative = {"same": "same", "none": None}, config.negative_adapter
    sampling["negative_adapter"] = (
        named[negative] if negative in named else _open_adapter("negative_adapter", negative, backbone)
    )
    words = ""
    if not config.compare:
        clip = backbone.generate(config.prompt, adapter, config.strength, seed=config.seed, **sampling)[0].cpu()
    elif adapter is None:
        raise ConfigError("compare=true: there is nothing to compare with; give adapter=<file> or predictor=<run>")
    else:
        seen = workflows.compare_clips(backbone, config.prompt, adapter, config.strength, config.seed, **sampling)
        clip, change = seen.clip, f"mean change {seen.change:.2f} of 255 grey levels"
        words = f", base | adapted | difference x{seen.factor}; {change}"
    workflows.write_clip(out, clip, config.fps or backbone.sampling.fps)
    print(f"{out}: {len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}{words}")
    return clip


def _load(config: GenerateConfig) -> tuple[Backbone, Adapter | None]:
    """The backbone and the adapter, checked to belong together."""
    if config.adapter is not None and config.predictor is not None:
        raise ConfigError("adapter= and predictor= are both given: give one of them")
    if config.predictor is not None:
        predictor = load_predictor(config)
        return predictor.backbone, predictor.predict(prompt=config.prompt)
    adapter = None if config.adapter is None else Adapter.load(config.adapter)
    known = None if adapter is None else adapter.metadata.get("backbone")
    backbone = load_backbone(config.model or known or "tiny-wan", workflows.pick_device(config.device))
    if adapter is not None:
        workflows.check_adapter(f"adapter={config.adapter}", adapter, backbone)
    return backbone, adapter


def _open_adapter(key: str, path: str, backbone: Backbone) -> Adapter:
    adapter = Adapter.load(path)
    workflows.check_adapter(f"{key}={path}", adapter, backbone)
    return adapter


def finetune(config: FinetuneConfig) -> workflows.FineTuning:
    """A short training on the clips of one class, from an adapter or from nothing; its curve goes beside the file."""
    out = Path(config.out)
    beside = workflows.curve_files(out)
    if out in beside:
        raise ConfigError(f"out={out}: the curve goes there; give the adapter another ending")
    check_adapter_target(out, config.format, config.overwrite)
    for file in beside:
        check_target(file, config.overwrite)
    if config.compare and config.init is None:
        raise ConfigError("compare=true: there is nothing to compare with; give init=<adapter file>")
    backbone = open_backbone(config)
    init = None if config.init is None else _open_adapter("init", config.init, backbone)
    done = workflows.finetune(backbone, find_set(config), config.finetune, config.group, init, config.compare)
    adapter = Adapter(done.adapter, {**done.adapter.metadata, "init": config.init or ""})
    adapter.save(out, config.format, overwrite=config.overwrite)
    done.write_curve(out)
    _report(done)
    print(f"{out}: {config.format}, step {adapter.metadata['steps']} of {config.finetune.steps}; {beside[1]}")
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
