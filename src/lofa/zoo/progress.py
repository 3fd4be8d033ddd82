"""How far a zoo is: a bar with the LoRAs an hour."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["ZooBar", "zoo_bar"]


class _HourlyColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """LoRAs an hour, from the steps done since the start of this run."""
        speed = task.speed
        return Text("" if not speed else f"{3600 * speed / task.fields['steps']:,.0f} LoRAs/h", style="cyan")


class ZooBar:
    """Counts steps over LoRAs; a LoRA is done after `steps` of them or when it stops earlier."""

    def __init__(self, progress: Progress, loras: int, steps: int) -> None:
        self.progress, self.steps, self.finished = progress, steps, 0
        self.task = progress.add_task("LoRAs", total=loras * steps, steps=steps, loras=loras, done=0, losses="")

    def step(self, loras: int, step: int) -> None:
        """Batch of `loras` has done `step` steps."""
        self.progress.update(self.task, completed=(self.finished + loras * step / self.steps) * self.steps)

    def batch(self, loras: int, losses: str) -> None:
        """Batch of `loras` is trained and written."""
        self.finished += loras
        self.progress.update(self.task, completed=self.finished * self.steps, done=self.finished, losses=losses)


@contextmanager
def zoo_bar(loras: int, steps: int, show: bool) -> Iterator[ZooBar]:
    """A bar for `loras` LoRAs of `steps` steps each."""
    columns = (
        TextColumn("[bold]{task.description}[/] {task.fields[done]}/{task.fields[loras]}"),
        BarColumn(),
        _HourlyColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, disable=not show) as progress:
        yield ZooBar(progress, loras, steps)
