"""lofa demo: the whole way once, from clips to an evaluated predictor, in one process."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lofa.cli.clips import side_by_side, write_clip
from lofa.cli.command import Command
from lofa.cli.evaluate import EvalConfig, compare_methods
from lofa.cli.objects import hypernet_kind, open_backbone, pick_device
from lofa.cli.options import text
from lofa.cli.prepare import prepare_source
from lofa.cli.runs import find_set
from lofa.cli.schema import WayConfig
from lofa.cli.train import TrainConfig, train_stage
from lofa.cli.zoo import train_zoo
from lofa.data import read_samples
from lofa.data.samples import values_of
from lofa.evaluation import Evaluation
from lofa.files import atomic_write
from lofa.predict import Predictor
from lofa.predict.stages import PREDICTOR

__all__ = ["COMMAND", "DemoConfig"]

_STAGES = {1: "response map", 2: "adapter"}


@dataclass
class DemoConfig(WayConfig):
    """Keys of lofa demo."""

    name: str | None = text(None, "folder in paths.runs for what is made; none: that of the experiment: demo, smoke")
    source: str = text("world", "as for lofa prepare")
    prompt: str | None = text(None, "prompt of the clip that is generated; none: the caption of a held-out clip")


@dataclass
class _Clock:
    """Seconds of each part, printed as headings while it runs."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.console.rule(f"[bold]{name}", align="left")
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun

    def table(self) -> Table:
        table = Table(title="where the time went")
        table.add_column("part")
        table.add_column("seconds", justify="right")
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        table.add_section()
        table.add_row("all", f"{sum(self.seconds.values()):.1f}")
        peak = _peak_memory()
        table.caption = None if peak is None else f"at most {peak / 2**30:.2f} GiB of memory"
        return table


def _peak_memory() -> int | None:
    """The most memory this process has held, bytes; None where the system keeps no count (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts in bytes, others in KiB


def demo(config: Any) -> Evaluation:
    """World -> prepare -> zoo -> stage 1 -> stage 2 -> predict -> eval; prepared samples and LoRAs are used again."""
    clock = _Clock(Console())
    out = Path(config.paths.runs) / (config.name or HydraConfig.get().runtime.choices["experiment"] or "demo")
    backbone = open_backbone(config.backbone, pick_device(config.device))
    with clock.part("prepare"):
        prepare_source(config.source, config, backbone)
    with clock.part("zoo"):
        train_zoo(config, backbone)
    before = None
    for stage in hypernet_kind(config.hypernet).stages:
        with clock.part(f"stage {stage}: {_STAGES[stage]}"):
            run = _train(config, out, stage, before)
            before = str(run)
    with atomic_write(out / "predictor", PREDICTOR) as temporary:
        shutil.copytree(run / "predictor", temporary)
    with clock.part("predict and generate"):
        set_dir = find_set(config)
        held_out = next(sample for sample in read_samples(set_dir) if sample.split == "test")
        prompt = config.prompt or held_out.caption
        predictor = Predictor.load(run, backbone.device, backbone)
        asked = replace(held_out, caption=prompt)
        (adapter,) = predictor.predict(**values_of(set_dir, [asked], backbone, predictor.conditions))
        adapter.save(out / "adapter.safetensors", overwrite=True)
        clips = backbone.generate(prompt, [None, adapter], seed=[config.seed] * 2).cpu()
        write_clip(out / "clip.mp4", side_by_side(*clips), backbone.sampling.fps)
        clock.console.print(
            f"{prompt!r}: {out / 'adapter.safetensors'}, {out / 'clip.mp4'} (base | adapted)", markup=False
        )
    with clock.part("eval"):
        result = compare_methods(_view(config, EvalConfig, predictor=str(run)), backbone, out)
    clock.console.print(clock.table())
    return result


def _train(config: Any, out: Path, stage: int, response: str | None) -> Path:
    """Trains a stage in a folder of its own below the demo's."""
    run = out / f"stage{stage}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return train_stage(_view(config, TrainConfig, stage=stage, response=response), run).run


def _view(config: Any, schema: type, **values: object) -> Any:
    """The configuration of another command of the way, from what both share."""
    view = OmegaConf.structured(schema)
    shared = OmegaConf.masked_copy(config, [key for key in config if key in view])
    return OmegaConf.merge(view, shared, values)


COMMAND = Command(
    "demo",
    DemoConfig,
    demo,
    "the whole way once: world, prepare, zoo, stage 1, stage 2, predict, eval",
    ("lofa demo", "lofa demo experiment=smoke            the same way in at most two minutes"),
    sections=("prepare", "zoo", "stages", "hypernet", "evaluation", "backbone", "paths"),
)
