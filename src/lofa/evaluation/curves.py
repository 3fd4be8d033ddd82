"""Training curves out of the TensorBoard logs of a run."""

from collections.abc import Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lofa.evaluation.charts import Points

__all__ = ["Series", "read_curves"]

Series = Mapping[str, Points]
"""Lines of one chart: name -> (step, value)."""


def read_curves(run_dir: str | Path) -> dict[str, Series]:
    """The scalars logged below `run_dir`, a chart for each name: "train/loss" and "val/loss" are the lines of "loss".

    Learning rates, epochs and what has a single point are left out; the losses come first.
    """
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for folder in sorted({file.parent for file in Path(run_dir).rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            part, slash, name = tag.partition("/")
            if slash and part in ("train", "val"):
                points = [(float(event.step), float(event.value)) for event in events.Scalars(tag)]
                charts.setdefault(name, {}).setdefault(part, []).extend(points)
    kept = {
        name: {part: sorted(points) for part, points in series.items() if len(points) > 1}
        for name, series in charts.items()
    }
    return {name: kept[name] for name in sorted(kept, key=lambda name: ("loss" not in name, name)) if kept[name]}
