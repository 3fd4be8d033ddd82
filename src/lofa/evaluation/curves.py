"""Training curves out of the TensorBoard logs of a run."""

from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lofa.errors import DataError

__all__ = ["Curves", "read_curves"]

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """One chart: a title and named series of (step, value)."""

    title: str
    series: dict[str, Points]


def read_curves(run_dir: str | Path, title: str = "") -> list[Curves]:
    """The scalars below `run_dir`, a chart for each name: "train/loss" and "val/loss" are the two series of "loss".

    Learning rates, epochs and what has a single point are left out; the losses come first.

    Raises:
        DataError: no TensorBoard log there.
    """
    folders = sorted({file.parent for file in Path(run_dir).rglob("events.out.tfevents.*")})
    if not folders:
        raise DataError(
            f"{run_dir}: no TensorBoard log below it; give a run directory of train.py with logger=tensorboard"
        )
    charts: dict[str, dict[str, Points]] = {}
    for folder in folders:
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
    order = sorted((name for name, series in kept.items() if series), key=lambda name: ("loss" not in name, name))
    return [Curves(f"{title} {name}".strip(), kept[name]) for name in order]
