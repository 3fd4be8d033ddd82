"""lofa demo: the whole pipeline once, from clips to an evaluated predictor, in one process."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from rich.console import Console
from rich.table import Column, Table

from lofa.cli.commands import DemoConfig, EvalConfig, TrainConfig
from lofa.cli.evaluate import compare_methods
from lofa.cli.objects import find_set, open_backbone
from lofa.cli.pipeline import PipelineConfig
from lofa.cli.train import train_into
from lofa.data import prepare, read_samples
from lofa.data.samples import values_of
from lofa.evaluation import Evaluation
from lofa.files import atomic_write
from lofa.predict import Predictor
from lofa.predict.stages import PREDICTOR
from lofa.workflows import hypernet_kind, side_by_side, train_zoo, write_clip

__all__ = ["demo"]

View = TypeVar("View", TrainConfig, EvalConfig)
_STAGES = {1: "response map", 2: "adapter"}


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
        table = Table("part", Column("seconds", justify="right"), title="where the time went")
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


def demo(config: DemoConfig) -> Evaluation:
    """World -> prepare -> zoo -> stage 1 -> stage 2 -> predict -> eval; prepared samples and LoRAs are used again."""
    clock = _Clock(Console())
    out = Path(config.paths.runs) / (config.name or HydraConfig.get().runtime.choices["experiment"] or "demo")
    set_dir, backbone = find_set(config), open_backbone(config)
    with clock.part("prepare"):
        prepare(config.source, set_dir, backbone, config.prepare)
    with clock.part("zoo"):
        train_zoo(set_dir, backbone, config.zoo)
    before = None
    for stage in hypernet_kind(config.hypernet).stages:
        with clock.part(f"stage {stage}: {_STAGES[stage]}"):
            run = out / f"stage{stage}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
            train_into(run, _view(config, TrainConfig, stage=stage, response=before))
            before = str(run)
    with atomic_write(out / "predictor", PREDICTOR) as temporary:
        shutil.copytree(run / "predictor", temporary)
    with clock.part("predict and generate"):
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


def _view(config: DemoConfig, kind: type[View], **values: object) -> View:
    """The configuration of another command of the pipeline, from what both share."""
    shared = {item.name: getattr(config, item.name) for item in fields(PipelineConfig)}
    return kind(**{**shared, **values})
